"""The model card: filled from what lies beside the anchors, with what is missing said to be so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixer.errors import BadArtifact
from mixer.measure.card import card
from mixer.measure.card_parts import CONTROL, REPLIES, BaseShape, CardFacts
from mixer.measure.card_samples import Sample
from mixer.measure.card_tables import as_time, cost_of_poles
from mixer.measure.control import ControlReport, PoleDifference, PositionScore
from mixer.resources import JUDGES, TINY_ANCHORS

OWN_BASE = {
    "parameters": 12_000_000,
    "tokens": 5_000_000,
    "minutes": 120.2,
    "held_out_bits_per_byte": {"fiction": 1.53},
    "config": {"layers": 5, "hidden_size": 384, "vocab_size": 8192, "context": 512},
}
ANCHOR: dict[str, Any] = {
    "pairs": 371,
    "unpaired": 99,
    "seconds": 6001.5,
    "test_pairs": 55,
    "own_loss_base": 4.5,
    "own_loss_anchor": 4.25,
    "other_loss_base": 4.4,
    "other_loss_anchor": 4.6,
    "pair_accuracy": 0.9091,
    "made_from": {"config": {"rank": 8, "lora_alpha": 16.0, "epochs": 6, "steps": None}},
}
REPORT = ControlReport(
    50,
    60,
    7,
    0.8,
    0.95,
    (PositionScore("humor", 0.0, 0.3, 0.02, 10.0, 0.9), PositionScore("humor", 1.0, 0.8, 0.02, 30.0, 0.9)),
    (PoleDifference("humor", 0.61, 0.03),),
)
SHAPE = BaseShape(135_000_000, "llama", 30, 576, 49152, 8192, True, labels={"humor": ("plain", "humorous")})
SAMPLES = (Sample("The boat", False, {}, 0, " came\nin*."), Sample("Sing.", True, {"humor": 1.0}, 1, "La <b> la."))
FACTS = CardFacts("somebody/model", "MIT", "Built with Model.")


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    folder = tmp_path / "anchors"
    (folder / "humor" / "positive").mkdir(parents=True)
    (folder / "humor" / "positive" / "training.json").write_text(json.dumps(ANCHOR))
    return folder


def test_the_card_says_what_is_there_and_what_is_not(anchors: Path):
    text = card(FACTS, SHAPE, anchors, JUDGES, SAMPLES)
    assert text.startswith("# Anchors for model\n") and "(https://huggingface.co/somebody/model), license: MIT." in text
    assert "Built with Model." in text and "135,000,000 parameters" in text and "135 million parameters, which" in text
    assert "| humor.positive | 371 | 99 | 6002 | 4.50 → 4.25 | 4.40 → 4.60 | 91 % of 55 |" in text
    assert "An anchor made 6 passes over the pairs" in text and "took 1 h 40 min" in text and "from too: humor." in text
    assert "There are none for these anchors." in text and "has not been measured with these anchors" in text
    assert "Continuing held-out openings: not measured." in text and "evaluate control --chat --out" in text
    assert replace(SAMPLES[0], text="man, and").markdown({}) == "- 0. **at rest**, *The boat*man, and"
    assert "python -m mixer train anchors --base somebody/model" in text
    assert text.endswith("```\n") and "train recipe r\n" in card(
        replace(FACTS, recipe="r"), SHAPE, anchors, JUDGES, SAMPLES
    )
    assert "- 0. **at rest**, *The boat* came / in\\*." in text
    assert "- 1. **humorous (`humor=+1`)**, reply to *Sing.* La \\<b> la." in text
    assert all(f"\n## {part}\n" in text for part in ("Limits", "Bias", "Misuse")) and "trained from nothing" not in text


def test_the_card_has_both_forms_of_control_where_they_were_measured(anchors: Path):
    (anchors / CONTROL).write_text(REPORT.to_json())
    (anchors / REPLIES).write_text(replace(REPORT, prompts=48).to_json())
    text = card(FACTS, SHAPE, anchors, JUDGES, SAMPLES)
    assert "Continuing 50 held-out openings, 60 tokens each" in text and "Replying to 48 requests" in text
    assert text.count("| humor | 0.30 ± 0.02 (10) | 0.80 ± 0.02 (30) | 0.61 ± 0.03 | yes |") == 2
    assert "is 3.0 to 3.0 times that at rest" in text and "not measured" not in text
    (anchors / REPLIES).unlink()
    assert "requests" not in card(FACTS, replace(SHAPE, replies=False), anchors, JUDGES, SAMPLES).split("## Dec")[0]


def test_the_card_says_whose_scores_they_are_and_how_anchors_were_scaled(anchors: Path):
    (anchors / CONTROL).write_text(REPORT.to_json())
    (anchors / REPLIES).write_text(replace(REPORT, outside={"formality": 0.99}).to_json())
    text = card(FACTS, SHAPE, anchors, JUDGES, SAMPLES)
    assert text.count("those of the judges above") == 1 and "share no data with the anchors" in text
    assert "formality 0.99" in text and "Then it was scaled" not in text
    assert text.count("--positions 0 1 --outside DATA --out ANCHORS/control-replies.json") == 1
    assert "--outside DATA" in card(replace(FACTS, recipe="r"), SHAPE, anchors, JUDGES, SAMPLES)
    scaled = {**ANCHOR["made_from"]["config"], "strengths": {"humor": 0.5, "formality": 0.6}}
    (anchors / "humor" / "positive" / "training.json").write_text(
        json.dumps({**ANCHOR, "made_from": {"config": scaled}})
    )
    assert "Then it was scaled: humor by 0.5. At" in card(FACTS, SHAPE, anchors, JUDGES, SAMPLES)


def test_a_base_that_was_trained_here_has_its_own_part(anchors: Path, tmp_path: Path):
    (tmp_path / "training.json").write_text(json.dumps(OWN_BASE))
    text = card(CardFacts("assets/base"), SHAPE, anchors, JUDGES, SAMPLES, tmp_path)
    assert "`assets/base`, license: see the texts" in text and "12,000,000 parameters (5 layers" in text
    assert "fiction 1.53" in text and "| attributes/humor | judge |" in text and "train base --data DATA" in text


def test_heads_coupling_and_own_pairs_of_the_shipped_toy_are_told(tmp_path: Path):
    text = card(FACTS, replace(SHAPE, calibrated=True), TINY_ANCHORS, JUDGES, SAMPLES)
    assert "| formality | a reward model | 32 | 28800 | 0.43 | 0.66 | 0.28 |" in text and "| toxicity | a rew" in text
    assert "| plain | 0.351 ± 0.005 |" in text and "| decoupled | 0.213 ± 0.005 |" in text


def test_what_cannot_be_read_is_named(anchors: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadArtifact, match="holds no anchor with a report"):
        card(FACTS, SHAPE, tmp_path / "empty", JUDGES, SAMPLES)
    (anchors / CONTROL).write_text("{}")
    with pytest.raises(BadArtifact, match=r"control\.json is no report of control"):
        card(FACTS, SHAPE, anchors, JUDGES, SAMPLES)
    (anchors / CONTROL).write_text("{")
    with pytest.raises(BadArtifact, match=r"control\.json cannot be read"):
        card(FACTS, SHAPE, anchors, JUDGES, SAMPLES)


def test_the_cost_of_poles_needs_perplexities():
    measures = tuple(replace(one, perplexity=None) for one in REPORT.measures)
    assert cost_of_poles([replace(REPORT, measures=measures)]) == "" and cost_of_poles([]) == ""


def test_times_are_as_people_write_them():
    assert [as_time(s) for s in (3.2, 89, 600, 5400, 11100)] == ["3 s", "89 s", "10 min", "1 h 30 min", "3 h 05 min"]
