from __future__ import annotations

import itertools
import os
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mixer import Desk, SamplingParams, Steering
from mixer.resources import BASE
from mixer.ui.live.browsers import LATER, BrowserSession, BrowserSessions, Take
from mixer.ui.state.controls import REST, DeckValue


def take_of(desk: Desk) -> Take:
    params = SamplingParams(max_new_tokens=4, seed=1)
    return Take(desk.session("The door", params=params), desk.session("The door", params=params))


def steer(desk: Desk, browser: BrowserSession, seq: int, position: float) -> bool:
    positions = {next(iter(desk.attributes)): position}
    return browser.steer(DeckValue(seq, positions), desk.mix(positions))


@settings(max_examples=30)
@given(moves=st.lists(st.tuples(st.integers(1, 30), st.sampled_from([-1.0, -0.5, 0.5, 1.0])), max_size=12))
def test_an_older_move_never_overwrites_a_newer_one(desk: Desk, moves: list[tuple[int, float]]) -> None:
    browser, take, rest = BrowserSession(), take_of(desk), desk.mix()
    browser.begin(take, DeckValue(), rest)
    newest, expected = 0, rest
    for seq, position in moves:
        taken = steer(desk, browser, seq, position)
        assert taken == (seq > newest)
        if taken:
            newest, expected = seq, desk.mix({next(iter(desk.attributes)): position})
    assert take.mix.mix == expected
    assert take.base.mix == rest


def test_rewards_steer_the_running_take_and_what_cannot_be_waits_for_the_next(desk: Desk) -> None:
    browser, take, rest = BrowserSession(), take_of(desk), desk.mix()
    browser.begin(take, DeckValue(), rest)
    asked = Steering({desk.rewards[0]: 0.5}, {desk.rewards[-1]: 0.1})
    assert browser.steer(DeckValue(1, {}, asked), rest)
    assert (take.mix.steering, take.base.steering, take.refused) == (asked, REST, "")
    assert browser.steer(DeckValue(2, {}, replace(asked, budget=0.3, whole=True)), rest)
    assert (take.mix.steering, take.refused) == (replace(asked, budget=0.3), LATER)
    assert not browser.steer(DeckValue(1, {}, REST), rest)
    assert browser.steer(DeckValue(3, {}, REST), rest)
    assert (take.mix.steering, take.refused) == (REST, "")


def test_a_formula_that_no_reward_can_read_says_so_and_the_take_goes_on(desk: Desk) -> None:
    browser, take = BrowserSession(), take_of(desk)
    desk.add_model("twin", os.environ.get("MIXER_BASE") or BASE)
    take.mix = desk.session("The door", formula="[base, model=twin]")
    browser.begin(take, DeckValue(), desk.mix())
    asked = Steering({desk.rewards[0]: 0.5}, whole=True)
    assert browser.steer(DeckValue(1, {}, asked), desk.mix())
    assert "has no term of it" in take.refused
    assert take.mix.steering == REST


def test_a_move_that_arrives_before_its_take_is_not_lost(desk: Desk) -> None:
    browser, take = BrowserSession(), take_of(desk)
    steer(desk, browser, 5, 0.5)
    newer = browser.begin(take, DeckValue(3), desk.mix())
    assert newer is not None
    assert newer.seq == 5
    browser.follow(take, newer, desk.mix(newer.positions))
    assert take.mix.mix == desk.mix(newer.positions)


def test_two_browser_sessions_never_share_a_mix(desk: Desk) -> None:
    browsers = BrowserSessions()
    takes = {key: take_of(desk) for key in "ab"}
    for key, take in takes.items():
        browsers.open(key).begin(take, DeckValue(), desk.mix())
    steer(desk, browsers.open("a"), 1, 0.5)
    assert takes["a"].mix.mix != takes["b"].mix.mix == desk.mix()


def test_a_second_take_stops_the_first_and_dropping_frees_the_rows(desk: Desk) -> None:
    browsers = BrowserSessions()
    browser = browsers.open("a")
    first, second = take_of(desk), take_of(desk)
    browser.begin(first, DeckValue(), desk.mix())
    browser.begin(second, DeckValue(), desk.mix())
    assert first.stopped
    assert not second.stopped
    browser.end(first)
    assert browser.busy
    browsers.drop("a")
    assert not browser.busy
    assert second.base.finish_reason == second.mix.finish_reason == "closed"
    assert browsers.find("a") is None


def test_invented_session_names_are_forgotten_but_running_ones_are_kept(desk: Desk) -> None:
    browsers = BrowserSessions(capacity=5)
    browsers.open("running").begin(take_of(desk), DeckValue(), desk.mix())
    for name in map(str, range(50)):
        browsers.open(name)
    assert len(browsers) == 5
    assert browsers.find("running") is not None
    assert all(browsers.find(name) is None for name in map(str, itertools.islice(range(50), 46)))
