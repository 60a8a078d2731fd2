"""Batches: each text is the same as if it were written alone, even if others fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixer import Desk, Request, SamplingParams
from mixer.errors import MixerError
from mixer.tasks.batch import BatchText, write


@pytest.fixture(scope="module")
def desk(tiny: Path) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu", auto_fold=False)


def request(desk: Desk, prompt: str = "Dear", tokens: int = 6, formula: str | None = None, seed: int = 3) -> Request:
    return Request(prompt, desk.mix(formality=0.5), SamplingParams(max_new_tokens=tokens, seed=seed), formula)


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_every_text_is_the_one_written_alone(desk: Desk, rows: int):
    asked = [request(desk, prompt, tokens, seed=tokens) for prompt, tokens in (("A", 4), ("Be", 9), ("C", 2), ("D", 6))]
    asked.append(request(desk, formula="2*sliders - base"))
    jobs = [BatchText(one) for one in asked]
    shares = [sum(job.share for job in jobs) for _ in write(desk, jobs, rows)]
    assert all(job.written and not job.error and job.share == 1 for job in jobs)
    assert [job.text for job in jobs] == [desk.generate_batch([one])[0].text for one in asked]
    assert shares == sorted(shares) and shares[0] < 2 and shares[-1] == len(jobs)
    assert all(job.scores == desk.scores(job.text) for job in jobs)


def test_what_cannot_begin_stops_no_other(desk: Desk):
    jobs = [
        BatchText(request(desk), "Row 2"),
        BatchText(request(desk, ""), "Row 3"),
        BatchText(request(desk, formula="[fromal]"), "Row 4"),
    ]
    for _ in write(desk, jobs):
        pass
    assert jobs[0].written
    assert jobs[1].error.startswith("Row 3: The prompt is empty")
    assert "Row 4: Line 1, column 2" in jobs[2].error and not jobs[2].written
    assert all(job.done for job in jobs)


def test_a_text_that_ends_with_an_error_is_found_among_the_others(desk: Desk):
    wrong = (
        "base - 0.5*union(base, [formal]) - 0.5*union(base, [formal])"  # its weight S becomes 0 when a token is drawn
    )
    with pytest.raises(MixerError):
        desk.generate("Dear", formula=wrong)
    jobs = [
        BatchText(request(desk, formula=wrong if place == 2 else None, seed=place), str(place)) for place in range(5)
    ]
    for _ in write(desk, jobs):
        pass
    assert [bool(job.error) for job in jobs] == [False, False, True, False, False]
    assert jobs[2].error.startswith("2: ")
    assert [job.text for job in jobs if job.written] == [
        desk.generate_batch([job.request])[0].text for job in jobs if job.written
    ]


def test_rows_are_given_back_when_a_batch_is_stopped(desk: Desk):
    jobs = [BatchText(request(desk, tokens=40)) for _ in range(4)]
    steps = write(desk, jobs)
    for _ in range(3):
        next(steps)
    assert desk.scheduler.rows_in_use == 4
    steps.close()
    assert desk.scheduler.rows_in_use == 0
    assert not any(job.done for job in jobs) and all(0 < job.share < 1 for job in jobs)


def test_nothing_to_write_is_fine(desk: Desk):
    assert list(write(desk, [])) == [] == list(write(desk, [BatchText(request(desk), error="No.")]))
