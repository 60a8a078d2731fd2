"""Laws of thread teams: any number of threads gives the same bits; none hangs, outlives its team or keeps arrays."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numba import njit

from mixer.kernels.threads import (
    SIGNALS,
    ThreadTeam,
    await_call,
    current_call,
    finish_part,
    is_open,
    open_call,
    take_part,
    wait_until_done,
)
from mixer.model.cpu_backend import CpuBackend
from tests.kernels.parts import VOCAB, make_model, random_parts

THREADS = [1, 2, 3, 5]


# A call has `counts[0]` rounds of two phases each. Every number of a phase needs numbers that other parts wrote in the
# phase before. Numbers are integers: the result is wrong only if a part began too early.
@njit
def run_parts(signals, first, rounds, parts, x, y):
    for r in range(rounds):
        part = take_part(signals, first, parts)
        while part >= 0:
            for i in range(x.size * part // parts, x.size * (part + 1) // parts):
                y[i] = 5 * x[i] + 3 * x[(i + 1) % x.size] + x[(i + x.size // 2) % x.size] + r
            finish_part(signals)
            part = take_part(signals, first, parts)
        first += parts
        part = take_part(signals, first, 1 + parts // 2)
        while part >= 0:
            for i in range(x.size * part // (1 + parts // 2), x.size * (part + 1) // (1 + parts // 2)):
                x[i] = y[i] ^ (y[x.size - 1 - i] >> 3)
            finish_part(signals)
            part = take_part(signals, first, 1 + parts // 2)
        first += 1 + parts // 2
    return first


@njit(nogil=True)
def run(signals, helping, x, y, counts):
    if helping:
        while await_call(signals):
            first, end = current_call(signals)  # type: ignore
            rounds, parts = counts
            if is_open(signals, end):
                run_parts(signals, first, rounds, parts, x, y)
        return
    rounds, parts = counts
    first = open_call(signals, rounds * (parts + 1 + parts // 2))
    wait_until_done(signals, run_parts(signals, first, rounds, parts, x, y))


def arrays(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.arange(size), np.zeros(size, np.int64), np.zeros(2, np.int64)


def expected(x: np.ndarray, rounds: int) -> np.ndarray:
    """x after a call."""
    for r in range(rounds):
        y = 5 * x + 3 * np.roll(x, -1) + np.roll(x, -(x.size // 2)) + r
        x = y ^ (y[::-1] >> 3)
    return x


def call(team: ThreadTeam, arguments: tuple[np.ndarray, ...], rounds: int, parts: int) -> bool:
    """Make a call; returns whether its result is right."""
    x, _, counts = arguments
    wanted = expected(x.copy(), rounds)
    counts[:] = rounds, parts
    team.run(arguments)
    return np.array_equal(x, wanted)


def soon(happened: Callable[[], bool]) -> bool:
    """Wait until something happens; False after a time that only a hang exceeds."""
    until = time.monotonic() + 20
    while not happened():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


@pytest.mark.parametrize("threads", THREADS)
def test_thousands_of_tiny_calls_in_a_row_are_all_right(threads: int):
    team, arguments, rng = ThreadTeam(threads, run), arrays(24), random.Random(threads)
    assert all(call(team, arguments, rng.randint(1, 4), rng.randint(1, 2 * threads)) for _ in range(1500))


@pytest.mark.parametrize("threads", THREADS)
def test_calls_with_much_to_do_are_right(threads: int):
    team, arguments = ThreadTeam(threads, run), arrays(20_000)
    assert all(call(team, arguments, 3, parts) for parts in (1, threads, 3 * threads))


@pytest.mark.parametrize("threads", THREADS)
def test_helpers_may_sleep_or_be_awake_when_others_arrays_are_handed_out(threads: int):
    team, rng = ThreadTeam(threads, run), random.Random(threads)
    known = [arrays(size) for size in (7, 24, 400)]
    for turn in range(150):
        if rng.random() < 0.2:
            known[rng.randrange(3)] = arrays(rng.randint(2, 500))
        assert call(team, rng.choice(known), rng.randint(1, 3), threads), turn
        if rng.random() < 0.1:
            time.sleep(0.004)  # until the helpers sleep


@njit
def watch(signals):
    """What a helper that read the first call's numbers sees while two calls pass: numbers, and whether it may go on."""
    seen = []
    open_call(signals, 3)
    first, end = current_call(signals)  # type: ignore
    seen.append((first, end, is_open(signals, end)))
    for _ in range(3):
        take_part(signals, 0, 3)
        finish_part(signals)
    seen.append((first, end, is_open(signals, end)))
    open_call(signals, 2)
    seen.append((first, end, is_open(signals, end)))
    first, end = current_call(signals)  # type: ignore
    seen.append((first, end, is_open(signals, end)))
    return seen


def test_a_helper_that_was_put_aside_knows_that_its_call_is_over():
    assert watch(np.zeros(SIGNALS, np.int64)) == [(0, 3, True), (0, 3, False), (0, 3, False), (3, 5, True)]


def test_arrays_go_once_others_are_handed_out():
    team, former = ThreadTeam(3, run), arrays(50)
    assert call(team, former, 2, 3)
    watched = [weakref.ref(array) for array in former]
    former = arrays(60)
    assert call(team, former, 2, 3)
    assert soon(lambda: not any(ref() is not None for ref in watched))


def test_threads_and_arrays_go_with_their_team():
    before = set(threading.enumerate())
    teams = [(ThreadTeam(4, run), arrays(50)) for _ in range(3)]
    assert all(call(team, own, 2, 4) for team, own in teams)
    time.sleep(0.004)
    teams.append((ThreadTeam(4, run), arrays(50)))  # this one makes no call
    watched = [weakref.ref(array) for _, own in teams for array in own]
    assert len(set(threading.enumerate()) - before) == 12
    teams.clear()
    assert soon(lambda: set(threading.enumerate()) <= before)
    assert soon(lambda: not any(ref() is not None for ref in watched))


def test_a_team_of_one_has_no_thread():
    before = threading.active_count()
    team = ThreadTeam(1, run)
    assert call(team, arrays(9), 2, 1) and threading.active_count() == before


def test_a_thread_that_hogs_the_interpreter_stops_nobody():
    done = False

    def hog() -> None:
        while not done:
            pass

    other = threading.Thread(target=hog, daemon=True)
    other.start()
    try:
        team = ThreadTeam(3, run)
        assert all(call(team, arrays(30 + turn // 5), 2, 3) for turn in range(25))
    finally:
        done = True
        other.join()


def test_teams_of_many_desks_work_side_by_side():
    results: list[bool] = []

    def work(seed: int) -> None:
        team, arguments, rng = ThreadTeam(2, run), arrays(40), random.Random(seed)
        results.append(all(call(team, arguments, rng.randint(1, 3), 2) for _ in range(200)))

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [True] * 3


def walk(backend: CpuBackend) -> list[torch.Tensor]:
    """Logits of two rows while the cache grows and is cleared, with pauses in which helpers fall asleep."""
    rng, results = random.Random(3), []
    for turn in range(3):
        backend.reserve(3, 40)
        backend.gate[1], backend.gate[2] = (0.7, -0.4), (0.0, turn * 0.5)
        ids = [rng.randrange(VOCAB) for _ in range(30)]
        results.append(backend.forward(ids, [1] * 20 + [2] * 10, [*range(20), *range(10)], [0, 19, 29]))
        backend.reserve(9, 100)
        for position in range(6):
            results.append(backend.forward(ids[:2], [1, 2], [20 + position, 10 + position], [0, 1]))
            if position == 3:
                time.sleep(0.004)
        backend.clear()
    return results


def test_a_backend_gives_the_same_bits_with_any_number_of_threads():
    lm = make_model("qwen")
    parts = random_parts(lm, 2)
    first, *others = (walk(CpuBackend(lm, parts, rows=9, threads=threads)) for threads in THREADS)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_backend_s_threads_go_with_it():
    before, lm = set(threading.enumerate()), make_model("llama")
    backend = CpuBackend(lm, random_parts(lm, 1), rows=3, threads=3)
    backend.forward([1, 2], [0, 0], [0, 1], [1])
    watched = weakref.ref(backend.arrays.work.x)
    del backend
    gc.collect()
    assert soon(lambda: set(threading.enumerate()) <= before and watched() is None)
