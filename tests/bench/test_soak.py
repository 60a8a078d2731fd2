"""The figures of a long trial."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.soak import FIGURES, growth, table
from mixer.cli import main


@given(st.floats(-100, 100), st.floats(0, 5000), st.integers(15, 90), st.randoms())
def test_a_steady_growth_is_found_as_it_is_whatever_comes_and_goes(slope: float, start: float, count: int, rng: Random):
    samples = [{"seconds": 20.0 * i, "megabytes": start + slope * 20 * i / 3600} for i in range(count)]
    assert growth(samples, "megabytes") == pytest.approx(slope, abs=1e-3)
    for at in range(0, count - 2, 3):  # of three samples one at least is at rest
        for busy in rng.sample(range(at, at + 3), 2):
            samples[busy]["megabytes"] += 200 * rng.random() + 200
    if slope > 0:
        assert growth(samples, "megabytes") == pytest.approx(slope, abs=1e-3)


def test_too_few_samples_say_nothing():
    assert growth([], "megabytes") == growth([{"seconds": 1.0, "megabytes": 2.0}] * 14, "megabytes") == 0


def test_a_report_says_what_went_wrong():
    sample = dict.fromkeys(FIGURES, 100.0) | {"seconds": 20.0}
    report = {
        "minutes": 5,
        "pages": 2,
        "an_hour": dict.fromkeys(FIGURES, 3.0),
        "first": sample,
        "last": sample,
        "rest": {"sessions": 1, "rows": 0},
        "trouble": {"toast after drag: Oh": 3},
        "did": {"drag": 7, "keys": 2},
        "sound": False,
    }
    words = table(report)
    assert "| the server's memory, MB | 100 | 100 | 3.00 |" in words
    assert "9 things done: drag 7, keys 2." in words
    assert "3 times: toast after drag: Oh" in words and words.endswith("Not sound.")
    assert table(report | {"trouble": {}, "sound": True}).endswith("Sound.")


@pytest.mark.parametrize(
    "words",
    [
        ["page", "http://127.0.0.1:9"],
        ["page", "nonsense"],
        ["page", "http://127.0.0.1:9", "--takes", "0"],
        ["soak", "http://127.0.0.1:9"],
        ["soak", "--minutes", "0"],
        ["soak", "--pages", "0"],
    ],
    ids=lambda words: " ".join(words),
)
def test_what_cannot_be_tried_is_refused_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["bench", *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
