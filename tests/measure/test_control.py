"""The control report, on a tiny random desk with the shipped judges."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixer import Desk
from mixer.errors import InvalidValue, UnknownName
from mixer.measure.control import (
    ControlReport,
    PoleDifference,
    PositionScore,
    base_loglikelihoods,
    control,
    held_out_prompts,
)
from mixer.training.data import ATTRIBUTES, find_pairs, split_of


@pytest.fixture(scope="module")
def desk(tiny: Path) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu")


@pytest.fixture(scope="module")
def report(desk: Desk, tiny: Path) -> ControlReport:
    loglikelihoods = base_loglikelihoods(tiny / "base")
    return control(desk, ["Once upon", "The boat", "A dog"], ["formality"], tokens=6, loglikelihoods=loglikelihoods)


def test_prompts_are_held_out_and_come_from_all_attributes():
    prompts = held_out_prompts()
    assert len(set(prompts)) == 50 and {split_of(prompt) for prompt in prompts} == {"test"}
    for attribute in ATTRIBUTES:
        assert len({pair.opening for pair in find_pairs(None, attribute)} & set(prompts)) >= 6


def test_a_report_repeats_and_survives_json(desk: Desk, report: ControlReport, tiny: Path):
    assert ControlReport.from_json(report.to_json()) == report
    again = control(desk, ["Once upon", "The boat", "A dog"], ["formality"], tokens=6)
    assert [m.score for m in again.measures] == [m.score for m in report.measures]


def test_the_difference_is_that_of_the_outer_positions(report: ControlReport):
    scores = {m.position: m.score for m in report.measures}
    assert report.reaches[0].difference == pytest.approx(scores[1.0] - scores[-1.0], abs=2e-4)
    assert all(0 <= m.score <= 1 and m.perplexity and m.perplexity > 1 for m in report.measures)


def test_the_table_has_a_row_for_each_attribute_and_says_which_passed():
    measures = tuple(PositionScore("humor", p, 0.5 + p / 4, 0.01, 12.3, 0.9) for p in (-1.0, 1.0))
    table = ControlReport(50, 60, 7, 0.8, 0.95, measures, (PoleDifference("humor", 0.5, 0.02),)).table()
    assert "| humor | 0.25 ± 0.01 (12) | 0.75 ± 0.01 (12) | 0.50 ± 0.02 | yes |" in table
    assert not PoleDifference("humor", 0.29, 0.0).passed


def test_what_cannot_be_measured_is_refused(desk: Desk):
    with pytest.raises(UnknownName, match="formality"):
        control(desk, ["A"], ["formalty"])
    with pytest.raises(InvalidValue):
        control(desk, [], ["formality"])
    with pytest.raises(InvalidValue):
        control(desk, ["A"], ["formality"], positions=(1.0,))
