"""Desks, sessions and helpers for tests of the scheduler.

Its laws: a text is the same whatever else is in the batch; every reader gets its step; no row is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from mixer import Desk, Mix, SamplingParams, Session, Step
from mixer.decoding.scheduler import Scheduler
from tests.model.parts import batch_exact

PROMPTS = ["Nurse Abeni unfolded", "Hi", "The harbor lay still, and no one had yet come down to the boats.", "x" * 40]
SECONDS = 60  # a limit that only a hang exceeds
Trace = list[tuple[int, str, str, bool]]


@pytest.fixture(scope="module", params=["native", "torch"])
def loaded(tiny: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu", native=request.param == "native", auto_fold=False)


@pytest.fixture
def desk(loaded: Desk) -> Iterator[Desk]:
    """A desk with a new scheduler. After the test, all rows must be free."""
    renew(loaded)
    yield loaded
    assert loaded.scheduler.rows_in_use == 0
    assert not loaded.scheduler.in_flight and not loaded.scheduler.waiting


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as pool:
        yield pool


@pytest.fixture
def together(desk: Desk) -> Callable[[], None]:
    """After the call, every pass waits until all readers ask. Each reader needs a thread of its own."""
    return lambda: setattr(desk.scheduler, "gather_seconds", float(SECONDS))


def renew(desk: Desk, **limits: Any) -> None:
    desk.scheduler = Scheduler(desk.model, **limits)


def params(n: int = 16, **options) -> SamplingParams:
    return SamplingParams(max_new_tokens=n, seed=7, **options)


def mixes(desk: Desk) -> list[Mix]:
    return [Mix(), desk.mix(formality=0.8), desk.mix(humor=-1.2), desk.mix(formality=-0.5, humor=2)]


def texts(desk: Desk, count: int, n: int = 16) -> list[Session]:
    """Sessions with different prompts, mixes and lengths."""
    return [
        desk.session(PROMPTS[i % 4], mixes(desk)[(i + i // 4) % 4], params(n - i % 4), "refill") for i in range(count)
    ]


def note(step: Step) -> tuple[int, str, str, bool]:
    return step.token_id, step.logprob.hex(), step.mix_key, step.exact


def trace(stream: Iterator[Step] | Session) -> Trace:
    return [note(step) for step in stream]


def same(desk: Desk, got: Trace, expected: Trace) -> bool:
    """Whether two traces are equal: bit for bit where the backend promises that, else up to rounding."""
    if batch_exact(desk.model.backend):
        return got == expected
    return len(got) == len(expected) and all(
        (a[0], *a[2:]) == (b[0], *b[2:]) and abs(float.fromhex(a[1]) - float.fromhex(b[1])) < 1e-4
        for a, b in zip(got, expected, strict=True)
    )


def uncached(desk: Desk, ids: list[int], mix: Mix) -> torch.Tensor:
    return torch.log_softmax(desk.model.logits(ids, mix.coefficients(desk.anchors)), dim=-1)


class Spy:
    """Records the forward passes of a desk's backend.

    Attributes:
        calls: for each pass, the number of tokens of each row.
        before: is called before each pass, in the thread that computes.
    """

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[int, int]] = []
        self.before: Callable[[], None] = lambda: None
        forward = desk.model.backend.forward

        def watched(ids, rows, positions, wanted):
            self.calls.append({row: list(rows).count(row) for row in rows})
            self.before()
            return forward(ids, rows, positions, wanted)

        monkeypatch.setattr(desk.model.backend, "forward", watched)


@pytest.fixture
def spy(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(desk, monkeypatch)


def soon(happened: Callable[[], bool]) -> bool:
    waiting = threading.Event()
    return any(happened() or waiting.wait(0.002) for _ in range(500 * SECONDS))
