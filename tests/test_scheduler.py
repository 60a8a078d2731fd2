"""Laws of the scheduler: a text is the same whoever comes and goes beside it, nobody waits in vain, no row is lost."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mixer.engine
import mixer.scheduler
from mixer import Desk, Mix, SamplingParams, Session, Step
from mixer.errors import Busy, InvalidValue
from mixer.scheduler import Scheduler

PROMPTS = ["Nurse Abeni unfolded", "Hi", "The harbor lay still, and no one had yet come down to the boats.", "x" * 40]
SECONDS = 60  # that only a hang exceeds
Trace = list[tuple[int, str, str, bool]]


@pytest.fixture(scope="module", params=["native", "torch"])
def loaded(tiny: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu", native=request.param == "native", auto_fold=False)


@pytest.fixture
def desk(loaded: Desk) -> Iterator[Desk]:
    """A desk without a past, all of whose rows are free in the end."""
    renew(loaded)
    yield loaded
    assert loaded._scheduler.rows_in_use == 0
    assert not loaded._scheduler._parties and not loaded._scheduler._queue


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as pool:
        yield pool


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, every pass waits for all readers, each of which must have a thread of its own."""
    return lambda: monkeypatch.setattr(mixer.scheduler, "GATHER_SECONDS", float(SECONDS))


def renew(desk: Desk, **limits: Any) -> None:
    desk._scheduler = Scheduler(desk._model, **limits)


def params(n: int = 16, **options) -> SamplingParams:
    return SamplingParams(max_new_tokens=n, seed=7, **options)


def mixes(desk: Desk) -> list[Mix]:
    return [Mix(), desk.mix(formality=0.8), desk.mix(humor=-1.2), desk.mix(formality=-0.5, humor=2)]


def texts(desk: Desk, count: int, n: int = 16) -> list[Session]:
    """Sessions that all differ."""
    return [
        desk.session(PROMPTS[i % 4], mixes(desk)[(i + i // 4) % 4], params(n - i % 4), "refill") for i in range(count)
    ]


def note(step: Step) -> tuple[int, str, str, bool]:
    return step.token_id, step.logprob.hex(), step.mix_key, step.exact


def trace(stream: Iterator[Step] | Session) -> Trace:
    return [note(step) for step in stream]


def same(desk: Desk, got: Trace, expected: Trace) -> bool:
    """Bit for bit where the network promises that; otherwise but for rounding."""
    if desk._model.network.batch_exact:
        return got == expected
    return len(got) == len(expected) and all(
        (a[0], *a[2:]) == (b[0], *b[2:]) and abs(float.fromhex(a[1]) - float.fromhex(b[1])) < 1e-4
        for a, b in zip(got, expected, strict=True)
    )


def uncached(desk: Desk, ids: list[int], mix: Mix) -> torch.Tensor:
    return torch.log_softmax(desk._model.logits(ids, mix.coefficients(desk.anchors)), dim=-1)


class Spy:
    """Watches the passes of a desk's network.

    Attributes:
        calls: of each pass, how many tokens each row brought.
        before: called before each pass, in the thread that computes.
    """

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[int, int]] = []
        self.before: Callable[[], None] = lambda: None
        forward = desk._model.network.forward

        def watched(ids, rows, positions, wanted):
            self.calls.append({row: list(rows).count(row) for row in rows})
            self.before()
            return forward(ids, rows, positions, wanted)

        monkeypatch.setattr(desk._model.network, "forward", watched)


@pytest.fixture
def spy(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(desk, monkeypatch)


def soon(happened: Callable[[], bool]) -> bool:
    waiting = threading.Event()
    return any(happened() or waiting.wait(0.002) for _ in range(500 * SECONDS))


# The same text.


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_text_is_the_same_alone_and_among_others_that_come_and_go(desk: Desk, data: st.DataObject):
    alone = [trace(session) for session in texts(desk, 6)]
    if data.draw(st.booleans()):
        renew(desk)  # so that no prompt is known
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

    def follow(party: list[Session]) -> list[Trace]:
        got: list[Trace] = [[] for _ in party]
        for tick in desk.lockstep(*party):
            for own, step in zip(got, tick, strict=True):
                own += [note(step)] if step else []
        return got

    sessions = texts(desk, 12)
    parties = [sessions[:1], sessions[1:3], sessions[3:6], sessions[6:12]]
    got = [own for party in pool.map(follow, parties) for own in party]
    assert all(same(desk, own, expected) for own, expected in zip(got, alone, strict=True))


def test_readers_in_several_threads_share_a_pass(
    desk: Desk, spy: Spy, together: Callable[[], None], pool: ThreadPoolExecutor
):
    alone = [trace(session) for session in texts(desk, 3)]
    spy.calls.clear()
    sessions = texts(desk, 3)
    # All have a row before any reads on, so that all passes but the last are shared.
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
    monkeypatch.setattr(desk._model.network, "chunk", 16)
    long = "y" * 115  # and the token that begins every text; the context is 128
    short_alone, long_alone = trace(desk.session("Hi", None, params(30))), trace(desk.session(long, None, params(4)))
    renew(desk)
    stream = iter(desk.session("Hi", None, params(30)))
    got = [note(next(stream)) for _ in range(3)]
    row, later = next(iter(spy.calls[-1])), desk.session(long, None, params(4))
    spy.calls.clear()
    together()
    other = pool.submit(trace, later)
    assert soon(lambda: desk._scheduler.rows_in_use == 2)
    got += trace(stream)
    assert same(desk, got, short_alone) and same(desk, other.result(SECONDS), long_alone)
    shared = [call for call in spy.calls if len(call) == 2]
    assert [call.get(row) for call in spy.calls[: len(shared)]] == [1] * len(shared), "a token in every pass"
    pieces = [count for call in shared for other, count in call.items() if other != row]
    assert pieces == [16] * 7 + [4] + [1] * 3, "116 tokens in pieces, then three more steps"


def test_two_long_prompts_share_what_a_pass_holds(desk: Desk, spy: Spy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk._model.network, "chunk", 16)
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
    monkeypatch.setattr(desk._model.network, "chunk", 16)
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


def test_what_a_move_left_stale_is_exact_again_once_the_sliders_rest(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mixer.engine, "REST_SECONDS", 1e9)
    target, session = desk.mix(formality=-1.5), desk.session(PROMPTS[0], desk.mix(humor=1), params(20), "keep")
    gaps, exact = [], []
    for step in session:
        expected = uncached(desk, session.prompt_ids + session.token_ids[:-1], session.mix)
        gaps.append(abs(step.logprob - float(expected[step.token_id])))
        exact.append(step.exact)
        if step.index == 5:
            session.mix = target
        if step.index == 10:
            monkeypatch.setattr(mixer.engine, "REST_SECONDS", 0.0)
    assert exact == [True] * 6 + [False] * 5 + [True] * 9
    assert max(gaps[:6]) < 1e-4 and max(gaps[11:]) < 1e-4 < max(gaps[6:11])
    assert not session.stats.exact


@pytest.mark.parametrize("length", [31, 32, 33, 40], ids="a prompt of {} tokens".format)
def test_a_move_while_a_prompt_is_read_waits_for_its_first_token(
    desk: Desk, spy: Spy, monkeypatch: pytest.MonkeyPatch, length: int
):
    monkeypatch.setattr(desk._model.network, "chunk", 16)
    prompt, mix, target = "z" * (length - 1), desk.mix(humor=2), desk.mix(formality=-2)
    expected = trace(desk.session(prompt, target, params(3)))
    renew(desk)
    session = desk.session(prompt, mix, params(3), "keep")
    assert len(session.prompt_ids) == length
    spy.before = lambda: setattr(session, "mix", target)
    steps, ids = list(session), list(session.prompt_ids)
    assert [(step.mix_key, step.exact) for step in steps] == [(mix.key, True)] + [(target.key, False)] * 2
    assert steps[0].logprob == pytest.approx(float(uncached(desk, ids, mix)[steps[0].token_id]), abs=1e-4)
    # What was kept of the prompt is what its mix made of it.
    assert same(desk, trace(desk.session(prompt, target, params(3))), expected)


# Known prompts.


def test_a_known_prompt_is_not_read_again_and_gives_the_same_text(
    desk: Desk, spy: Spy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk._model.network, "chunk", 256)
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
        assert sum(spy.calls[0].values()) == len(desk._model.encode(prompt)) - known
        if prompt == PROMPTS[2] and own == mix:
            assert same(desk, got, expected)
        past, desk._scheduler = desk._scheduler, Scheduler(desk._model)
        assert same(desk, got, trace(desk.session(prompt, own, params())))
        desk._scheduler = past


def test_a_known_prompt_that_waits_for_room_is_not_used_under_another_mix(
    desk: Desk, spy: Spy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk._model.network, "chunk", 8)
    mix, target = desk.mix(humor=2), desk.mix(formality=-2)
    assert trace(desk.session("k" * 29, mix, params(1)))
    busy, session = desk.session("q" * 20, None, params(2)), desk.session("k" * 29 + "p" * 10, mix, params(2))
    spy.calls.clear()
    spy.before = lambda: setattr(session, "mix", target)
    steps = [step for _, step in desk.lockstep(busy, session) if step]
    assert len(spy.calls[0]) == 1, "the first pass was full"
    assert [(step.mix_key, step.exact) for step in steps] == [(mix.key, True), (target.key, False)]
    expected = uncached(desk, session.prompt_ids, mix)
    assert steps[0].logprob == pytest.approx(float(expected[steps[0].token_id]), abs=1e-4)


# Rows.


def read_all(session: Session) -> None:
    assert len(list(session)) == 16


def close_session(session: Session) -> None:
    for step in session:
        if step.index == 3:
            session.close()


def close_stream(session: Session) -> None:
    stream = iter(session)
    next(stream)
    stream.close()  # type: ignore[attr-defined]


def fail(session: Session) -> None:
    with pytest.raises(ZeroDivisionError):
        for step in session:
            _ = 1 / (3 - step.index)


def walk_away(session: Session) -> None:
    next(iter(session))


def forget(session: Session) -> None:
    ring: list = [iter(session)]
    next(ring[0])
    ring.append(ring)
    del ring
    gc.collect()


def close_before(session: Session) -> None:
    session.close()
    assert list(session) == []


@pytest.mark.parametrize("end", [read_all, close_session, close_stream, fail, walk_away, forget, close_before])
def test_a_text_that_ends_in_any_way_gives_its_row_back(desk: Desk, end: Callable[[Session], None]):
    other = iter(desk.session(PROMPTS[1], desk.mix(humor=1), params()))
    before = trace(desk.session(PROMPTS[1], desk.mix(humor=1), params()))
    got = [note(next(other))]
    session = desk.session(PROMPTS[0], desk.mix(formality=1), params())
    end(session)
    assert session.finish_reason and desk._scheduler.rows_in_use == 1
    assert same(desk, got + trace(other), before)


def test_hundreds_of_streams_that_are_dropped_leave_nothing(desk: Desk):
    threads, watched = set(threading.enumerate()), []
    for turn in range(200):
        session = desk.session(PROMPTS[turn % 4], mixes(desk)[turn % 3], params())
        watched.append(weakref.ref(session))
        stream = iter(session)
        for _ in range(turn % 3):
            next(stream)
        if turn % 2:
            watched.append(weakref.ref(stream))
    del session, stream
    gc.collect()
    assert desk._scheduler.rows_in_use == 0 and set(threading.enumerate()) == threads
    assert not any(ref() for ref in watched)
    assert desk._scheduler.prefixes.tokens <= mixer.scheduler.PREFIX_TOKENS


def in_time(work: Callable[[], object]) -> bool:
    """Whether a thread gets work done; one that hangs is left behind."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS / 3)
    return not thread.is_alive()


@pytest.mark.parametrize("where", ["a pass of a session", "a pass for one distribution"])
def test_a_stream_may_be_collected_as_garbage_in_the_midst_of_a_pass(desk: Desk, spy: Spy, where: str):
    ring: list = [iter(desk.session(PROMPTS[1], desk.mix(humor=1), params()))]
    next(ring[0])
    ring.append(ring)
    del ring
    expected = trace(desk.session(PROMPTS[0], None, params()))
    got: Trace = []

    def collect() -> None:
        spy.before = lambda: None
        gc.collect()

    spy.before = collect

    def work() -> None:
        if where == "a pass of a session":
            got.extend(trace(desk.session(PROMPTS[0], None, params())))
        else:
            desk.logprobs(PROMPTS[0])

    assert in_time(work)
    assert desk._scheduler.rows_in_use == 0
    assert same(desk, got or trace(desk.session(PROMPTS[0], None, params())), expected)


# Room.


def test_more_texts_than_rows_wait_their_turn(desk: Desk, spy: Spy, pool: ThreadPoolExecutor):
    alone = [trace(session) for session in texts(desk, 9)]
    renew(desk, most_rows=2)
    spy.calls.clear()
    got = list(pool.map(trace, texts(desk, 9)))
    assert all(same(desk, own, expected) for own, expected in zip(got, alone, strict=True))
    assert {row for call in spy.calls for row in call} <= {1, 2}


def test_texts_wait_where_their_tokens_would_be_too_many(desk: Desk, pool: ThreadPoolExecutor):
    renew(desk, most_tokens=desk.context)
    longs = [desk.session(PROMPTS[1], None, params(50)) for _ in range(3)]
    streams = [iter(session) for session in longs]
    assert next(streams[0]) and next(streams[1])
    waiting = pool.submit(trace, streams[2])  # type: ignore[arg-type]
    assert soon(lambda: len(desk._scheduler._queue) == 1) and desk._scheduler.rows_in_use == 2
    longs[0].close()
    assert len(list(streams[0])) == 0 and len(waiting.result(SECONDS)) == 50
    longs[1].close()
    del streams


def test_a_queue_that_is_full_says_so_at_once(desk: Desk, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mixer.scheduler, "MOST_WAITING", 2)
    renew(desk, most_rows=1)
    first, *others = texts(desk, 4)
    stream = iter(first)
    next(stream)
    waiting = [pool.submit(trace, session) for session in others[:2]]
    assert soon(lambda: len(desk._scheduler._queue) == 2)
    with pytest.raises(Busy, match="full") as caught:
        next(iter(others[2]))
    assert caught.value.hint and others[2].finish_reason
    assert len(list(stream)) == 15 and [len(future.result(SECONDS)) for future in waiting] == [15, 14]


def test_a_party_that_can_never_fit_is_refused_and_one_that_just_fits_is_not(desk: Desk):
    renew(desk, most_rows=3)
    with pytest.raises(InvalidValue, match=r"4 texts.*3"):
        next(desk.lockstep(*texts(desk, 4)))
    assert sum(1 for _ in desk.lockstep(*texts(desk, 3))) == 16


def test_a_text_that_is_closed_while_it_waits_leaves_the_queue(desk: Desk, pool: ThreadPoolExecutor):
    renew(desk, most_rows=1)
    first, second, third = texts(desk, 3)
    stream = iter(first)
    next(stream)
    waiting: list[Future[Trace]] = []
    for place, session in enumerate((second, third), start=1):
        waiting.append(pool.submit(trace, session))
        assert soon(lambda place=place: len(desk._scheduler._queue) == place)
    second.close()
    assert waiting[0].result(SECONDS) == [] and second.finish_reason == "closed"
    assert soon(lambda: len(desk._scheduler._queue) == 1)
    assert len(list(stream)) == 15 and len(waiting[1].result(SECONDS)) == 14


def test_a_party_s_texts_that_ended_make_room_before_the_party_ends(desk: Desk, pool: ThreadPoolExecutor):
    renew(desk, most_rows=2)
    party = desk.lockstep(desk.session("Hi", None, params(2)), desk.session("Hi", None, params(30)))
    next(party)
    waiting = pool.submit(trace, desk.session("Hi", None, params(5)))
    assert soon(lambda: len(desk._scheduler._queue) == 1)
    for _ in range(4):
        next(party)
    assert len(waiting.result(SECONDS)) == 5
    party.close()  # type: ignore[attr-defined]


def test_nobody_waits_for_a_reader_who_has_paused(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    paused = iter(desk.session(PROMPTS[0], None, params(40)))
    for _ in range(20):
        next(paused)
    threading.Event().wait(3 * mixer.scheduler.GATHER_SECONDS)
    turn, waits = desk._scheduler._turn, []
    wait = turn.wait
    monkeypatch.setattr(turn, "wait", lambda timeout=None: (waits.append(timeout), wait(timeout))[1])
    assert len(list(desk.session(PROMPTS[1], None, params(30)))) == 30
    assert waits == []
    del paused


# Errors.


def breaking(times: int) -> Callable[[], None]:
    left = [None] * times

    def break_off() -> None:
        if left:
            left.pop()
            raise MemoryError("no room")

    return break_off


def test_a_pass_that_breaks_off_ends_one_text_and_the_others_go_on(
    desk: Desk, spy: Spy, together: Callable[[], None], pool: ThreadPoolExecutor
):
    alone = [trace(session) for session in texts(desk, 4)]
    sessions = texts(desk, 4)
    streams = [iter(session) for session in sessions]
    got = [[note(next(stream))] for stream in streams]
    spy.before = breaking(1)
    together()

    def read(own: Trace, stream: Iterator[Step]) -> bool:
        try:
            own.extend(note(step) for step in stream)
        except MemoryError:
            return False
        return True

    finished = list(pool.map(read, got, streams))
    assert sorted(finished) == [False, True, True, True]
    for session, own, expected, whole in zip(sessions, got, alone, finished, strict=True):
        assert same(desk, own, expected if whole else expected[:1]) and session.finish_reason
    assert desk._scheduler.rows_in_use == 0
    assert same(desk, trace(texts(desk, 1)[0]), alone[0])


def test_a_pass_that_breaks_off_while_a_prompt_is_read_leaves_a_desk_that_serves(desk: Desk, spy: Spy):
    expected = trace(texts(desk, 1)[0])
    renew(desk)
    for _ in range(3):
        spy.before = breaking(1)
        with pytest.raises(MemoryError, match="no room"):
            list(texts(desk, 1)[0])
        assert desk._scheduler.rows_in_use == 0
    assert same(desk, trace(texts(desk, 1)[0]), expected)


@pytest.mark.parametrize("at", [0, 3])
def test_a_draw_that_breaks_off_loses_no_text_but_one(
    desk: Desk, together: Callable[[], None], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, at: int
):
    alone = [trace(session) for session in texts(desk, 3)]
    renew(desk)
    streams = [iter(session) for session in texts(desk, 3)]
    got = [[note(next(stream)) for _ in range(at)] for stream in streams]
    together()
    draw, break_off = desk._scheduler._draw, breaking(1)
    monkeypatch.setattr(desk._scheduler, "_draw", lambda *arguments: (break_off(), draw(*arguments))[1])

    def read(own: Trace, stream: Iterator[Step]) -> bool:
        try:
            own.extend(note(step) for step in stream)
        except MemoryError:
            return False
        return True

    finished = list(pool.map(read, got, streams))
    assert sorted(finished) == [False, True, True]
    for own, expected, whole in zip(got, alone, finished, strict=True):
        assert same(desk, own, expected if whole else expected[:at])


def test_a_text_that_cannot_go_on_ends_with_its_own_error_and_no_other(
    desk: Desk, together: Callable[[], None], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    alone = [trace(session) for session in texts(desk, 4)]
    sessions = texts(desk, 4)
    streams = [iter(session) for session in sessions]
    got = [[note(next(stream))] for stream in streams]

    def spoiled(token: int) -> tuple[str, bool]:
        raise UnicodeError("no such character")

    monkeypatch.setattr(sessions[2]._stream, "push", spoiled)
    together()

    def read(own: Trace, stream: Iterator[Step]) -> bool:
        try:
            own.extend(note(step) for step in stream)
        except UnicodeError:
            return False
        return True

    assert list(pool.map(read, got, streams)) == [True, True, False, True]
    for place in (0, 1, 3):
        assert same(desk, got[place], alone[place])
