"""The model card: it is filled from the reports on disk, and an error names a report that is missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from mixer import Desk
from mixer.errors import BadArtifact
from mixer.measure.card import SAMPLE_MIXES, Sample, card, write_card, write_samples
from mixer.measure.control import ControlReport, PoleDifference, PositionScore
from mixer.resources import TINY_ANCHORS

JUDGES = Path(__file__).resolve().parents[2] / "assets" / "judges"
BASE = {
    "parameters": 12_000_000,
    "tokens": 5_000_000,
    "minutes": 120.2,
    "held_out_bits_per_byte": {"fiction": 1.53},
    "config": {"layers": 5, "hidden_size": 384, "vocab_size": 8192, "context": 512},
}
ANCHOR = {
    "pairs": 371,
    "unpaired": 99,
    "seconds": 61.5,
    "test_pairs": 55,
    "own_loss_base": 4.5,
    "own_loss_anchor": 4.25,
    "other_loss_base": 4.4,
    "other_loss_anchor": 4.6,
    "pair_accuracy": 0.9091,
    "made_from": {"config": {"rank": 8, "lora_alpha": 16.0, "epochs": 6, "steps": None}},
}
CONTROL_REPORT = ControlReport(
    50, 60, 7, 0.8, 0.95, (PositionScore("humor", 1.0, 0.8, 0.02, 30.0, 0.9),), (PoleDifference("humor", 0.61, 0.03),)
)
SAMPLES = tuple(Sample("The boat", mix, seed, " came\nin.") for seed, mix in enumerate(SAMPLE_MIXES))


def test_there_are_twenty_samples_with_both_poles_of_every_slider():
    assert len(SAMPLE_MIXES) == 20 and {} in SAMPLE_MIXES
    shipped = [path.parent.name for path in TINY_ANCHORS.glob("*/positive")]
    assert all({attribute: position} in SAMPLE_MIXES for attribute in shipped for position in (-1.0, 1.0))


def test_the_card_shows_every_figure_and_every_sample():
    text = card(
        BASE, {"humor.positive": ANCHOR}, json.loads((JUDGES / "report.json").read_text()), CONTROL_REPORT, SAMPLES
    )
    assert "12,000,000 parameters" in text and "fiction 1.53" in text and "$" not in text
    assert "| humor.positive | 371 | 99 | 62 | 4.50 → 4.25 | 4.40 → 4.60 | 91 % of 55 |" in text
    assert "| humor | 0.80 ± 0.02 (30) | 0.61 ± 0.03 | yes |" in text
    assert text.count("\n> The boat came") == 20 and "> in." in text


def test_the_card_is_written_from_the_folders(tmp_path: Path):
    base, anchors = tmp_path / "base", tmp_path / "anchors"
    (anchors / "humor" / "positive").mkdir(parents=True)
    base.mkdir()
    with pytest.raises(BadArtifact, match="no anchor"):
        write_card(base, anchors, JUDGES)
    (anchors / "humor" / "positive" / "training.json").write_text(json.dumps(ANCHOR))
    with pytest.raises(BadArtifact, match=r"training\.json"):
        write_card(base, anchors, JUDGES)
    (base / "training.json").write_text(json.dumps(BASE))
    (anchors / "control.json").write_text(CONTROL_REPORT.to_json())
    (anchors / "samples.json").write_text(json.dumps([asdict(sample) for sample in SAMPLES]))
    assert write_card(base, anchors, JUDGES).read_text().startswith("# Model card")


def test_samples_are_the_desk_s_texts_in_order(tiny: Path):
    desk = Desk.load(tiny / "base", tiny / "anchors", device="cpu")
    samples = write_samples(desk, ["One", "Two"], ({"formality": 1.0}, {}), tokens=4)
    assert [(s.prompt, s.mix, s.seed) for s in samples] == [("One", {"formality": 1.0}, 0), ("Two", {}, 1)]
    assert samples == write_samples(desk, ["One", "Two"], ({"formality": 1.0}, {}), tokens=4)
