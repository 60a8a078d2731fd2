"""Laws of comparing at equal divergence: intervals cover, crossings are exact, a method matches its like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.steering_study.comparison import (
    MARGIN,
    MethodComparison,
    MethodCurve,
    at,
    compare,
    distinct,
    interval,
    means,
    repetition,
    resampled,
)

SLIDERS = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 3.0])


def line(slope: float, noise: float = 0.0, surprise: float = 3.0, draws: int = 50) -> MethodCurve:
    """A score that rises by `slope` for each root of a nat, in draws that differ by `noise`."""
    rng = np.random.default_rng(0)
    nats = np.tile(0.4 * SLIDERS**2, (1 + draws, 1))
    scores = 0.5 + slope * np.sqrt(nats) + noise * rng.standard_normal((1 + draws, 1))
    return MethodCurve(nats, scores, np.full_like(nats, surprise))


def test_row_0_counts_each_prompt_once_and_a_draw_counts_as_many():
    counts = resampled(40, 100)
    assert counts.shape == (101, 40) and (counts[0] == 1).all() and (counts.sum(1) == 40).all()
    assert np.array_equal(counts, resampled(40, 100))


def test_an_interval_of_means_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    counts, covered = resampled(120, 400), 0
    for _ in range(200):
        low, high = interval(means(counts, rng.exponential(1.0, 120)))
        covered += low <= 1.0 <= high
    assert 0.89 <= covered / 200 <= 0.99


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_means_leave_out_what_is_not_a_number_and_weigh_by_size(values: list[float]):
    counts = np.array([[1.0, 1, 1, 1], [2, 0, 1, 1]])
    known = np.array(values)
    assert means(counts, known) == pytest.approx([known.mean(), (2 * known[0] + known[2] + known[3]) / 4])
    known[1] = np.nan
    assert means(counts, known)[0] == pytest.approx(np.nanmean(known))
    sums, sizes = np.array([3.0, 1, 0, 8]), np.array([3.0, 1, 2, 4])
    assert means(counts, sums, sizes) == pytest.approx([12 / 10, 14 / 12])


@given(st.floats(-1, 1), st.floats(0.0, 3.6))
def test_a_score_along_the_root_of_the_divergence_is_found_exactly(slope: float, target: float):
    own = line(slope)
    assert at(own.nats, own.scores, target) == pytest.approx(own.scores[:, 0] + slope * target**0.5, abs=1e-9)


def test_at_a_slider_its_own_figure_is_found_and_beyond_all_none():
    own = line(0.2)
    assert at(own.nats, own.scores, own.nats[0, 3])[0] == pytest.approx(own.scores[0, 3])
    assert np.isnan(at(own.nats, own.scores, 3.7)).all()


def test_a_line_that_turns_back_counts_where_it_first_crosses():
    nats, scores = np.array([[0.0, 1.0, 0.5, 2.0]]), np.array([[0.0, 1.0, 5.0, 9.0]])
    assert at(nats, scores, 0.64)[0] == pytest.approx(0.8)


@settings(deadline=None)
@given(st.floats(-0.4, 0.4), st.sampled_from([1.0, -1.0]))
def test_the_difference_of_two_lines_is_that_of_their_slopes(slope: float, direction: float):
    own, other = line(direction * slope, 0.1), line(direction * 0.2, 0.1)
    found = compare("ARM", own, "RAD", other, (0.25, 1.0, 9.0), direction)
    assert [one.nats for one in found] == [0.25, 1.0]
    for one in found:
        expected = (slope - 0.2) * one.nats**0.5
        # Noise that both lines share cancels.
        assert (one.difference, *one.interval) == pytest.approx((expected,) * 3, abs=1e-9)
        assert one.ratio == pytest.approx(1)
        assert (one.verdict == "matches") == (abs(expected) <= MARGIN)


@pytest.mark.parametrize(
    ("low", "high", "fluency", "verdict"),
    [
        (-0.01, 0.015, 0.99, "matches"),
        (-0.01, 0.015, 1.01, "as strong, less fluent"),
        (-0.05, 0.015, 0.9, "as strong or weaker"),
        (-0.05, -0.03, 0.9, "weaker"),
        (-0.01, 0.05, 0.9, "as strong or stronger"),
        (0.03, 0.05, 1.2, "stronger, less fluent"),
        (-0.03, 0.05, 0.9, "not settled"),
    ],
)
def test_a_verdict_says_what_fell_short(low: float, high: float, fluency: float, verdict: str):
    assert (
        MethodComparison("ARM", "RAD", 0.5, (low + high) / 2, (low, high), 1.0, (fluency, 1.3), 0.2).verdict == verdict
    )


def test_where_the_other_arm_does_nothing_there_is_nothing_to_match():
    (found,) = compare("ARM", line(0.02), "RAD", line(0.03), (0.25,))
    assert found.effect == pytest.approx(0.015) and found.verdict == "no effect to match"
    (away,) = compare("ARM", line(-0.2), "RAD", line(-0.2), (0.25,), direction=-1.0)
    assert away.effect == pytest.approx(0.1) and away.verdict == "matches"


def test_distinct_and_repeated_runs_of_known_texts():
    texts = ["The cat saw the cat", "a cat"]
    assert distinct(texts, 1) == 4 / 7 and distinct(texts, 2) == 4 / 5 and distinct(texts, 3) == 1
    assert distinct([], 2) == distinct(["one"], 2) == 1
    assert repetition(texts[0]) == 1 / 4 and repetition(texts[0], 1) == pytest.approx(2 / 5)
    assert repetition("") == 0 and repetition("no no no no") == pytest.approx(2 / 3)
