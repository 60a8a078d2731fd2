from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mixer import Desk, SamplingParams
from mixer.ui.registry import Live, Registry, Take
from mixer.ui.value import DeckValue, describe


def take_of(desk: Desk) -> Take:
    params = SamplingParams(max_new_tokens=4, seed=1)
    return Take(desk.session("The door", params=params), desk.session("The door", params=params))


def steer(desk: Desk, live: Live, seq: int, position: float) -> bool:
    positions = {next(iter(desk.attributes)): position}
    return live.steer(DeckValue(seq, positions), desk.mix(positions), describe(positions))


@settings(deadline=None, max_examples=30)
@given(moves=st.lists(st.tuples(st.integers(1, 30), st.sampled_from([-1.0, -0.5, 0.5, 1.0])), max_size=12))
def test_an_older_move_never_overwrites_a_newer_one(desk: Desk, moves: list[tuple[int, float]]) -> None:
    live, take, rest = Live(), take_of(desk), desk.mix()
    live.begin(take, DeckValue(), rest, "base")
    newest, expected = 0, rest
    for seq, position in moves:
        taken = steer(desk, live, seq, position)
        assert taken == (seq > newest)
        if taken:
            newest, expected = seq, desk.mix({next(iter(desk.attributes)): position})
    assert take.mix.mix == expected
    assert take.base.mix == rest


def test_a_move_that_arrives_before_its_take_is_not_lost(desk: Desk) -> None:
    live, take = Live(), take_of(desk)
    steer(desk, live, 5, 0.5)
    newer = live.begin(take, DeckValue(3), desk.mix(), "base")
    assert newer is not None
    assert newer.seq == 5
    live.follow(take, newer, desk.mix(newer.positions), describe(newer.positions))
    assert take.mix.mix == desk.mix(newer.positions)


def test_two_browser_sessions_never_share_a_mix(desk: Desk) -> None:
    registry = Registry()
    takes = {key: take_of(desk) for key in "ab"}
    for key, take in takes.items():
        registry.live(key).begin(take, DeckValue(), desk.mix(), "base")
    steer(desk, registry.live("a"), 1, 0.5)
    assert takes["a"].mix.mix != takes["b"].mix.mix == desk.mix()


def test_a_second_take_stops_the_first_and_dropping_frees_the_rows(desk: Desk) -> None:
    registry = Registry()
    live = registry.live("a")
    first, second = take_of(desk), take_of(desk)
    live.begin(first, DeckValue(), desk.mix(), "base")
    live.begin(second, DeckValue(), desk.mix(), "base")
    assert first.stopped
    assert not second.stopped
    live.end(first)
    assert live.busy
    registry.drop("a")
    assert not live.busy
    assert second.base.finish_reason == second.mix.finish_reason == "closed"
    assert registry.find("a") is None


def test_invented_session_names_are_forgotten_but_running_ones_are_kept(desk: Desk) -> None:
    registry = Registry(capacity=5)
    registry.live("running").begin(take_of(desk), DeckValue(), desk.mix(), "base")
    for name in map(str, range(50)):
        registry.live(name)
    assert len(registry) == 5
    assert registry.find("running") is not None
    assert all(registry.find(name) is None for name in map(str, itertools.islice(range(50), 46)))
