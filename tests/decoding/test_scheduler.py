"""Texts do not depend on what else is in the batch. Slider moves act on the next token. Long prompts are read in
pieces, and known prompts come from the prefix cache."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixer import Desk, Mix, Session
from mixer.decoding.scheduler import Scheduler
from tests.decoding.conftest import (
    PROMPTS,
    SECONDS,
    Spy,
    Trace,
    mixes,
    note,
    params,
    renew,
    same,
    soon,
    texts,
    trace,
    uncached,
)

# The same text.


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_text_is_the_same_alone_and_among_others_that_come_and_go(desk: Desk, data: st.DataObject):
    alone = [trace(session) for session in texts(desk, 6)]
    if data.draw(st.booleans()):
        renew(desk)  # so that the prefix cache is empty
    sessions = texts(desk, 6)
    streams, got = [iter(session) for session in sessions], [[] for _ in sessions]
    for _ in range(data.draw(st.integers(5, 60))):
        index = data.draw(st.integers(0, 5))
        if data.draw(st.integers(0, 30)) == 0:
            sessions[index].close()
        got[index] += [note(step) for step in [next(streams[index], None)] if step]
    for own, expected, session in zip(got, alone, sessions, strict=True):
        assert same(desk, own, expected[: len(own)])
        session.close()
        assert session.token_ids == [token for token, *_ in own]
    del streams


def test_texts_of_many_threads_are_the_same_as_alone(desk: Desk, pool: ThreadPoolExecutor):
    alone = [trace(session) for session in texts(desk, 12)]
    renew(desk, most_rows=5)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(3):
            for got, expected in zip(pool.map(trace, texts(desk, 12)), alone, strict=True):
                assert same(desk, got, expected)
    finally:
        sys.setswitchinterval(interval)


def test_parties_of_many_threads_are_the_same_as_alone(desk: Desk, pool: ThreadPoolExecutor):
    alone = [trace(session) for session in texts(desk, 12)]
    renew(desk, most_rows=7)

    def follow(lockstep: list[Session]) -> list[Trace]:
        got: list[Trace] = [[] for _ in lockstep]
        for tick in desk.lockstep(*lockstep):
            for own, step in zip(got, tick, strict=True):
                own += [note(step)] if step else []
        return got

    sessions = texts(desk, 12)
    locksteps = [sessions[:1], sessions[1:3], sessions[3:6], sessions[6:12]]
    got = [own for lockstep in pool.map(follow, locksteps) for own in lockstep]
    assert all(same(desk, own, expected) for own, expected in zip(got, alone, strict=True))


def test_readers_in_several_threads_share_a_pass(
    desk: Desk, spy: Spy, together: Callable[[], None], pool: ThreadPoolExecutor
):
    alone = [trace(session) for session in texts(desk, 3)]
    spy.calls.clear()
    sessions = texts(desk, 3)
    # All texts have rows before the first one goes on. So all further passes are shared, until texts end.
    streams = [iter(session) for session in sessions]
    firsts = [note(next(stream)) for stream in streams]
    together()
    got = list(pool.map(trace, streams))
    assert all(same(desk, [first, *rest], all_) for first, rest, all_ in zip(firsts, got, alone, strict=True))
    assert [len(call) for call in spy.calls] == [1, 1, 1] + [3] * 13 + [2, 1]


# Long prompts.


def test_a_long_prompt_is_read_in_pieces_while_another_text_goes_on(
    desk: Desk, spy: Spy, together: Callable[[], None], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk.model.backend, "chunk", 16)
    long = "y" * 115  # 116 tokens with the one that begins every text; the context is 128
    short_alone, long_alone = trace(desk.session("Hi", None, params(30))), trace(desk.session(long, None, params(4)))
    renew(desk)
    stream = iter(desk.session("Hi", None, params(30)))
    got = [note(next(stream)) for _ in range(3)]
    row, later = next(iter(spy.calls[-1])), desk.session(long, None, params(4))
    spy.calls.clear()
    together()
    other = pool.submit(trace, later)
    assert soon(lambda: desk.scheduler.rows_in_use == 2)
    got += trace(stream)
    assert same(desk, got, short_alone) and same(desk, other.result(SECONDS), long_alone)
    shared = [call for call in spy.calls if len(call) == 2]
    assert [call.get(row) for call in spy.calls[: len(shared)]] == [1] * len(shared), "a token in every pass"
    pieces = [count for call in shared for other, count in call.items() if other != row]
    assert pieces == [16] * 7 + [4] + [1] * 3, "116 tokens in pieces, then three more steps"


def test_two_long_prompts_share_what_a_pass_holds(desk: Desk, spy: Spy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk.model.backend, "chunk", 16)
    first, second = (desk.session(letter * 60, None, params(2)) for letter in "ab")
    alone = [trace(desk.session(letter * 60, None, params(2))) for letter in "ab"]
    renew(desk)
    spy.calls.clear()
    got: list[Trace] = [[], []]
    for tick in desk.lockstep(first, second):
        for own, step in zip(got, tick, strict=True):
            own += [note(step)] if step else []
    assert all(same(desk, own, expected) for own, expected in zip(got, alone, strict=True))
    assert all(sum(call.values()) <= 16 + 2 for call in spy.calls)


def test_a_refill_of_a_long_text_changes_no_bit_of_the_others(desk: Desk, spy: Spy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk.model.backend, "chunk", 16)
    others = [(PROMPTS[0], mixes(desk)[1], params(40)), (PROMPTS[1], Mix(), params(35))]
    alone = [trace(desk.session(*other)) for other in others]
    moving = desk.session(PROMPTS[2], desk.mix(humor=1), params(40), "refill")
    got: list[Trace] = [[], []]
    for step, *beside in desk.lockstep(moving, *[desk.session(*other) for other in others]):
        for own, other in zip(got, beside, strict=True):
            own += [note(other)] if other else []
        assert step is not None and step.exact and step.mix_key == moving.mix.key
        ids = moving.prompt_ids + moving.token_ids[:-1]
        assert step.logprob == pytest.approx(float(uncached(desk, ids, moving.mix)[step.token_id]), abs=1e-4)
        if step.index in (5, 20, 21, 33):
            moving.mix = desk.mix(humor=-1, formality=step.index / 20)
    assert all(same(desk, own, expected) for own, expected in zip(got, alone, strict=True))
    assert max(max(call.values()) for call in spy.calls if len(call) > 1) <= 16, "in pieces"


# Moves.


def test_a_move_from_another_thread_acts_on_the_very_next_token(desk: Desk, pool: ThreadPoolExecutor):
    beside = [pool.submit(trace, session) for session in texts(desk, 3, n=60)]
    session, rng = desk.session(PROMPTS[0], None, params(40), "keep"), random.Random(0)
    expected = Mix()
    for step in session:
        assert step.mix_key == expected.key
        if rng.random() < 0.5:
            expected = desk.mix(formality=rng.uniform(-2, 2), humor=rng.choice([0, 1]))
            pool.submit(setattr, session, "mix", expected).result(SECONDS)
    assert all(future.result(SECONDS) for future in beside)


def test_moves_at_any_moment_leave_every_step_under_one_of_the_mixes(desk: Desk, pool: ThreadPoolExecutor):
    session = desk.session(PROMPTS[0], mixes(desk)[0], params(60), "refill")
    done = threading.Event()

    def drag() -> None:
        for turn in range(10**9):
            session.mix = mixes(desk)[turn % 4]
            if done.wait(0.0005):
                return

    dragging, ids = pool.submit(drag), list(session.prompt_ids)
    known = {mix.key: mix for mix in mixes(desk)}
    try:
        for step in session:
            expected = uncached(desk, ids, known[step.mix_key])
            assert step.exact and step.logprob == pytest.approx(float(expected[step.token_id]), abs=1e-4)
            ids.append(step.token_id)
    finally:
        done.set()
    dragging.result(SECONDS)


def test_what_a_move_left_stale_is_exact_again_once_the_sliders_rest(desk: Desk):
    desk.scheduler.rest_seconds = 1e9
    target, session = desk.mix(formality=-1.5), desk.session(PROMPTS[0], desk.mix(humor=1), params(20), "keep")
    gaps, exact = [], []
    for step in session:
        expected = uncached(desk, session.prompt_ids + session.token_ids[:-1], session.mix)
        gaps.append(abs(step.logprob - float(expected[step.token_id])))
        exact.append(step.exact)
        if step.index == 5:
            session.mix = target
        if step.index == 10:
            desk.scheduler.in_flight[0].rest_seconds = 0.0
    assert exact == [True] * 6 + [False] * 5 + [True] * 9
    assert max(gaps[:6]) < 1e-4 and max(gaps[11:]) < 1e-4 < max(gaps[6:11])
    assert not session.stats.exact


@pytest.mark.parametrize("length", [31, 32, 33, 40], ids="a prompt of {} tokens".format)
def test_a_move_while_a_prompt_is_read_waits_for_its_first_token(
    desk: Desk, spy: Spy, monkeypatch: pytest.MonkeyPatch, length: int
):
    monkeypatch.setattr(desk.model.backend, "chunk", 16)
    prompt, mix, target = "z" * (length - 1), desk.mix(humor=2), desk.mix(formality=-2)
    expected = trace(desk.session(prompt, target, params(3)))
    renew(desk)
    session = desk.session(prompt, mix, params(3), "keep")
    assert len(session.prompt_ids) == length
    spy.before = lambda: setattr(session, "mix", target)
    steps, ids = list(session), list(session.prompt_ids)
    assert [(step.mix_key, step.exact) for step in steps] == [(mix.key, True)] + [(target.key, False)] * 2
    assert steps[0].logprob == pytest.approx(float(uncached(desk, ids, mix)[steps[0].token_id]), abs=1e-4)
    # The prefix cache holds the keys and values of the mix that the prompt was computed under.
    assert same(desk, trace(desk.session(prompt, target, params(3))), expected)


# Known prompts.


def test_a_known_prompt_is_not_read_again_and_gives_the_same_text(
    desk: Desk, spy: Spy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk.model.backend, "chunk", 256)
    mix = desk.mix(humor=1.5)
    expected = trace(desk.session(PROMPTS[2], mix, params()))
    fresh = sum(spy.calls[0].values())
    for prompt, own, known in [
        (PROMPTS[2], mix, fresh - 1),
        (PROMPTS[2] + " Then", mix, fresh),
        (PROMPTS[2][:30], mix, 30),
        (PROMPTS[2], desk.mix(humor=1.4), 0),
        (PROMPTS[2], None, 0),
        ("A" + PROMPTS[2], mix, 0),
    ]:
        spy.calls.clear()
        got = trace(desk.session(prompt, own, params()))
        assert sum(spy.calls[0].values()) == len(desk.model.encode(prompt)) - known
        if prompt == PROMPTS[2] and own == mix:
            assert same(desk, got, expected)
        past, desk.scheduler = desk.scheduler, Scheduler(desk.model)
        assert same(desk, got, trace(desk.session(prompt, own, params())))
        desk.scheduler = past


def test_a_known_prompt_is_not_used_under_a_mix_that_comes_while_the_rest_of_it_is_read(
    desk: Desk, spy: Spy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk.model.backend, "chunk", 8)
    mix, target = desk.mix(humor=2), desk.mix(formality=-2)
    assert trace(desk.session("k" * 29, mix, params(1)))
    busy, session = desk.session("q" * 20, None, params(2)), desk.session("k" * 29 + "p" * 10, mix, params(2))
    spy.calls.clear()
    spy.before = lambda: setattr(session, "mix", target)
    steps = [step for _, step in desk.lockstep(busy, session) if step]
    assert len(spy.calls[0]) == 2 and sum(spy.calls[0].values()) == 8, "two long prompts share a pass"
    assert [(step.mix_key, step.exact) for step in steps] == [(mix.key, True), (target.key, False)]
    expected = uncached(desk, session.prompt_ids, mix)
    assert steps[0].logprob == pytest.approx(float(expected[steps[0].token_id]), abs=1e-4)
