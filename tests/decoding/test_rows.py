"""Rows and the queue: texts that end in any way, limits, readers in threads, passes that fail."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mixer import Desk, Session, Step
from mixer.decoding.scheduler import PREFIX_TOKENS
from mixer.errors import Busy, InvalidValue
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
)

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
    assert session.finish_reason and desk.scheduler.rows_in_use == 1
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
    assert desk.scheduler.rows_in_use == 0 and set(threading.enumerate()) == threads
    assert not any(ref() for ref in watched)
    assert desk.scheduler.prefixes.tokens <= PREFIX_TOKENS


def in_time(work: Callable[[], object]) -> bool:
    """Whether a thread finishes its work in time. A thread that hangs is abandoned."""
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
    assert desk.scheduler.rows_in_use == 0
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
    assert soon(lambda: desk.scheduler.waiting == 1) and desk.scheduler.rows_in_use == 2
    longs[0].close()
    assert len(list(streams[0])) == 0 and len(waiting.result(SECONDS)) == 50
    longs[1].close()
    del streams


def test_a_queue_that_is_full_says_so_at_once(desk: Desk, pool: ThreadPoolExecutor):
    renew(desk, most_rows=1, most_waiting=2)
    first, *others = texts(desk, 4)
    stream = iter(first)
    next(stream)
    waiting = [pool.submit(trace, session) for session in others[:2]]
    assert soon(lambda: desk.scheduler.waiting == 2)
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
        assert soon(lambda place=place: desk.scheduler.waiting == place)
    second.close()
    assert waiting[0].result(SECONDS) == [] and second.finish_reason == "closed"
    assert soon(lambda: desk.scheduler.waiting == 1)
    assert len(list(stream)) == 15 and len(waiting[1].result(SECONDS)) == 14


def test_a_text_that_is_closed_while_others_are_waited_for_ends(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    (session,) = texts(desk, 1)
    monkeypatch.setattr(desk.scheduler, "gather", session.close)
    assert trace(session) == [] and session.finish_reason == "closed"


def test_a_party_s_texts_that_ended_make_room_before_the_party_ends(desk: Desk, pool: ThreadPoolExecutor):
    renew(desk, most_rows=2)
    lockstep = desk.lockstep(desk.session("Hi", None, params(2)), desk.session("Hi", None, params(30)))
    next(lockstep)
    waiting = pool.submit(trace, desk.session("Hi", None, params(5)))
    assert soon(lambda: desk.scheduler.waiting == 1)
    for _ in range(4):
        next(lockstep)
    assert len(waiting.result(SECONDS)) == 5
    lockstep.close()  # type: ignore[attr-defined]


def test_nobody_waits_for_a_reader_who_has_paused(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    paused = iter(desk.session(PROMPTS[0], None, params(40)))
    for _ in range(20):
        next(paused)
    threading.Event().wait(3 * desk.scheduler.gather_seconds)
    turn, waits = desk.scheduler.turn, []
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


def read_up(own: Trace, stream: Iterator[Step]) -> bool:
    """Read the rest of a stream into a list. Returns whether it came to its end without an error."""
    try:
        own.extend(note(step) for step in stream)
    except (MemoryError, UnicodeError):
        return False
    return True


def test_a_pass_that_breaks_off_ends_one_text_and_the_others_go_on(
    desk: Desk, spy: Spy, together: Callable[[], None], pool: ThreadPoolExecutor
):
    alone = [trace(session) for session in texts(desk, 4)]
    sessions = texts(desk, 4)
    streams = [iter(session) for session in sessions]
    got = [[note(next(stream))] for stream in streams]
    spy.before = breaking(1)
    together()

    finished = list(pool.map(read_up, got, streams))
    assert sorted(finished) == [False, True, True, True]
    for session, own, expected, whole in zip(sessions, got, alone, finished, strict=True):
        assert same(desk, own, expected if whole else expected[:1]) and session.finish_reason
    assert desk.scheduler.rows_in_use == 0
    assert same(desk, trace(texts(desk, 1)[0]), alone[0])


def test_a_pass_that_breaks_off_while_a_prompt_is_read_leaves_a_desk_that_serves(desk: Desk, spy: Spy):
    expected = trace(texts(desk, 1)[0])
    renew(desk)
    for _ in range(3):
        spy.before = breaking(1)
        with pytest.raises(MemoryError, match="no room"):
            list(texts(desk, 1)[0])
        assert desk.scheduler.rows_in_use == 0
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
    draw, break_off = desk.scheduler.runner.sample, breaking(1)
    monkeypatch.setattr(desk.scheduler.runner, "sample", lambda *arguments: (break_off(), draw(*arguments))[1])

    finished = list(pool.map(read_up, got, streams))
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

    monkeypatch.setattr(sessions[2].state.stream, "push", spoiled)
    together()

    assert list(pool.map(read_up, got, streams)) == [True, True, False, True]
    for place in (0, 1, 3):
        assert same(desk, got[place], alone[place])
