"""The report on formulas, on a tiny random desk with the shipped judges."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mixer import Desk
from mixer.cli import main
from mixer.errors import InvalidValue, UnknownName
from mixer.files.presets import Preset, load_presets
from mixer.measure.control import base_loglikelihoods
from mixer.measure.presets import (
    COMPARED_WITH,
    RAISED_SCORES,
    FormulaReport,
    PresetComparison,
    ScoreChange,
    TextFigures,
    formulas,
    text_scores,
)

PROMPTS = ["Once upon", "The boat", "A dog"]
GUIDANCE = Preset("Classifier-free guidance", '1.5*sliders - 0.5*[sliders] @ only("It")', "", "", None, {"humor": 0.5})
PERSONA = Preset("Persona", "[formal] - 0.5*[informal] + judge(humorous, k=3)", "", "")


@pytest.fixture(scope="module")
def desk(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A tiny desk whose poles have the shipped anchors' labels."""
    anchors = shutil.copytree(tiny / "anchors", tmp_path_factory.mktemp("named") / "anchors")
    for attribute, labels in (("formality", "informal, positive: formal"), ("humor", "plain, positive: humorous")):
        (anchors / attribute / "attribute.yaml").write_text(f"labels: {{negative: {labels}}}\n", encoding="utf-8")
    return Desk.load(tiny / "base", anchors, device="cpu")


@pytest.fixture(scope="module")
def report(desk: Desk, tiny: Path) -> FormulaReport:
    presets = [GUIDANCE, PERSONA]
    return formulas(desk, presets, PROMPTS, tokens=6, loglikelihoods=base_loglikelihoods(tiny / "base"))


def test_every_technique_that_is_measured_ships():
    assert (
        RAISED_SCORES.keys() <= {preset.name for preset in load_presets()}
        and COMPARED_WITH.keys() <= RAISED_SCORES.keys()
    )


def test_a_report_repeats(desk: Desk, report: FormulaReport):
    (again,) = formulas(desk, [PERSONA], PROMPTS, tokens=6).trials
    assert again.effects == report.trials[1].effects and again.without.perplexity is None


def test_every_comparison_has_its_scores_and_figures(report: FormulaReport):
    assert [[effect.score for effect in trial.effects] for trial in report.trials] == [
        ["prompt"],
        ["formality", "humor"],
    ]
    assert [trial.beside for trial in report.trials] == [None, "[formal]"]
    for trial in report.trials:
        for texts in (trial.without, trial.under):
            assert texts.perplexity and texts.perplexity > 1 and 0 < texts.distinct <= 1
            assert texts.tokens_per_second > 0
        for effect in trial.effects:
            assert effect.difference == pytest.approx(effect.under - effect.without, abs=2e-4) and effect.error >= 0
    assert json.loads(report.to_json())["trials"][0]["settings"] == {"humor": 0.5}


def test_a_formula_compared_with_an_equal_one_changes_nothing(desk: Desk):
    same = Preset("FUDGE", "2*sliders", "", "", None, {"formality": 0.7})
    (trial,) = formulas(desk, [same], PROMPTS, tokens=6).trials
    assert trial.effects[0].difference == trial.effects[0].error == 0 and not trial.effects[0].works


def test_the_table_has_a_row_for_each_score_and_marks_scores_that_did_not_rise():
    effects = (ScoreChange("formality", 0.2, 0.9, 0.7, 0.05), ScoreChange("humor", 0.5, 0.55, 0.05, 0.04))
    trial = PresetComparison(
        "Persona", "f", "[formal]", {}, effects, TextFigures(12.3, 0.8, 2000.0), TextFigures(15.6, 0.75, 900.0)
    )
    lines = FormulaReport(50, 60, 7, 0.8, 0.95, (trial,)).table().splitlines()
    assert lines[2].startswith(
        "| Persona | formality | 0.20 | 0.90 | +0.70 ± 0.05 | 0.80 → 0.75 | 12 → 16 | 2,000 → 900"
    )
    assert lines[3].startswith("|  | humor | 0.50 | 0.55 | +0.05 ± 0.04 (no) |")
    assert len({line.count("|") for line in lines}) == 1


def test_what_cannot_be_measured_is_refused(desk: Desk):
    with pytest.raises(InvalidValue):
        formulas(desk, [PERSONA], ["A"])
    with pytest.raises(UnknownName, match="Personna"):
        formulas(desk, [Preset("Personna", "base", "", "")], PROMPTS)


def test_a_text_that_fits_its_prompt_scores_above_one_that_does_not(desk: Desk):
    def likes_first_letter(prompts, texts):
        return np.array([float(prompt[0] == text[0]) for prompt, text in zip(prompts, texts, strict=True)])

    scores = text_scores(desk, "prompt", ["a", "b", "c"], ["a", "c", " "], likes_first_letter)
    assert scores[:2].tolist() == [1.0, -1.0] and np.isnan(scores[2])


def test_the_command_measures_formulas_of_a_file(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    presets, out = tmp_path / "presets.yaml", tmp_path / "report.json"
    presets.write_text("- {name: FUDGE, formula: base + judge(politeness), about: A., credit: B.}", encoding="utf-8")
    model = ["--base", str(tiny / "base"), "--anchors", str(tiny / "anchors")]
    words = ["--presets", str(presets), "--prompts", "2", "--tokens", "4", "--out", str(out), "--json"]
    assert main(["evaluate", "formulas", *model, *words]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report == json.loads(out.read_text(encoding="utf-8")) and report["tokens"] == 4
    assert [trial["formula"] for trial in report["trials"]] == ["base + judge(politeness)"]
