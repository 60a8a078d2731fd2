from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import Desk, SamplingParams, Steering
from mixer.errors import MixerError
from mixer.ui.controls.stage import Frame
from mixer.ui.live.browsers import BrowserSession
from mixer.ui.live.stream import TextMeter, run, shortened
from mixer.ui.state.controls import DeckValue, describe, options
from mixer.ui.state.formula_text import Recipe, recipe

PROMPT = "The door was"


def params(tokens: int = 24) -> SamplingParams:
    return SamplingParams(max_new_tokens=tokens, seed=7)


def text(frame: Frame) -> str:
    return "".join(part for _, part in frame.mix)


def move(desk: Desk, browser: BrowserSession, seq: int, position: float) -> None:
    positions = {next(iter(desk.attributes)): position}
    assert browser.steer(DeckValue(seq, positions), desk.mix(positions))


def test_the_last_frame_holds_both_whole_texts(desk: Desk) -> None:
    positions = {next(iter(desk.attributes)): 0.5}
    *_, last = run(desk, BrowserSession(), PROMPT, DeckValue(1, positions), "keep", params())
    assert last.state == "done"
    assert last.base == desk.generate(PROMPT, params=params()).text
    assert text(last) == desk.generate(PROMPT, mix=desk.mix(positions), params=params()).text
    assert [label for label, _ in last.mix] == [describe(positions)]
    assert last.status["seed"] == 7
    assert last.status["exact"]


def test_with_every_slider_at_rest_both_texts_are_the_same(desk: Desk) -> None:
    *_, last = run(desk, BrowserSession(), PROMPT, DeckValue(), "keep", params())
    assert text(last) == last.base != ""


def test_a_move_takes_effect_without_a_restart_and_is_marked(desk: Desk) -> None:
    browser = BrowserSession()
    before = ""
    last = Frame()
    for frame in run(desk, browser, PROMPT, DeckValue(), "keep", params(60)):
        if not before and text(frame):
            before = text(frame)
            move(desk, browser, 1, 1.5)
        last = frame
    assert text(last).startswith(before)
    assert [label for label, _ in last.mix] == ["base", describe({next(iter(desk.attributes)): 1.5})]
    assert last.seq == 1
    assert not last.status["exact"]


def test_a_reward_acts_on_the_next_token_and_is_marked_and_measured(desk: Desk) -> None:
    browser, before, last = BrowserSession(), "", Frame()
    head, steering = desk.rewards[0], Steering({desk.rewards[0]: 1.0}, {desk.rewards[-1]: 0.0}, budget=0.5)
    for frame in run(desk, browser, PROMPT, DeckValue(), "keep", params(60)):
        if not before and text(frame):
            before = text(frame)
            assert (frame.nats, frame.levels) == (None, {})
            assert browser.steer(DeckValue(1, {}, steering), desk.mix())
        last = frame
    assert text(last).startswith(before)
    assert text(last) != last.base
    assert [label for label, _ in last.mix] == ["base", describe({}, steering)]
    assert (last.seq, last.note) == (1, "")
    assert last.status["exact"]
    assert last.levels.keys() == {head, desk.rewards[-1]}
    assert last.nats is not None and 0 < last.nats <= 0.5


def test_a_take_begins_with_the_rewards_and_may_count_the_whole(desk: Desk) -> None:
    positions = {next(iter(desk.attributes)): 1.5}
    steering = Steering({desk.rewards[0]: 1.0}, budget=0.2, whole=True)
    *_, last = run(desk, BrowserSession(), PROMPT, DeckValue(1, positions, steering), "keep", params())
    assert text(last) == desk.generate(PROMPT, desk.mix(positions), params(), steering=steering).text
    assert last.nats is not None and 0 < last.nats <= 0.2


def test_restart_begins_the_text_again_under_the_new_mix(desk: Desk) -> None:
    browser = BrowserSession()
    positions = {next(iter(desk.attributes)): 1.0}
    moved = False
    last = Frame()
    for frame in run(desk, browser, PROMPT, DeckValue(), "restart", params()):
        if not moved and text(frame):
            move(desk, browser, 1, 1.0)
            moved = True
        last = frame
    assert text(last) == desk.generate(PROMPT, mix=desk.mix(positions), params=params()).text
    assert len(last.mix) == 1


def test_stop_ends_the_take_and_keeps_the_text(desk: Desk) -> None:
    browser = BrowserSession()
    last = Frame()
    for frame in run(desk, browser, PROMPT, DeckValue(), "keep", params(400)):
        if text(frame):
            browser.stop()
        last = frame
    assert last.state == "stopped"
    assert text(last) == last.base != ""
    assert not browser.busy


def test_closing_the_generator_frees_the_rows(desk: Desk) -> None:
    browser = BrowserSession()
    frames = run(desk, browser, PROMPT, DeckValue(), "keep", params(400))
    next(frames)
    assert browser.busy
    frames.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not browser.busy


def by(desk: Desk, formula: str) -> Recipe:
    return recipe(desk.formula(formula), desk.vocabulary)


def test_a_formula_writes_the_mix_and_the_base_stays_the_base(desk: Desk) -> None:
    name = next(iter(desk.attributes))
    formula = f"1.5*sliders - 0.5*[{name}]"
    *_, last = run(desk, BrowserSession(), PROMPT, DeckValue(1, {name: 0.5}), "keep", params(), 0, by(desk, formula))
    written = desk.generate(PROMPT, mix=desk.mix({name: 0.5}), params=params(), formula=formula)
    assert (last.state, text(last)) == ("done", written.text)
    assert last.base == desk.generate(PROMPT, params=params()).text
    assert last.formula == f"1.5 * sliders - 0.5 * {name}"
    assert [label for label, _ in last.mix] == [describe({name: 0.5})]


def test_sliders_that_do_not_act_leave_no_mark_in_the_text(desk: Desk) -> None:
    browser, name, moved, last = BrowserSession(), next(iter(desk.attributes)), False, Frame()
    for frame in run(desk, browser, PROMPT, DeckValue(), "keep", params(), 0, by(desk, f"2*base - {name}")):
        if not moved and text(frame):
            move(desk, browser, 1, 1.0)
            moved = True
        last = frame
    assert moved
    assert [label for label, _ in last.mix] == [""]
    assert text(last) == desk.generate(PROMPT, params=params(), formula=f"2*base - {name}").text


def test_what_a_ban_takes_back_leaves_the_frame(desk: Desk) -> None:
    plain = desk.generate(PROMPT, params=params(40)).text
    word = next(word for word in plain.split() if len(word) > 3 and word.isalpha())
    formula = f'sliders + ban("{word}")'
    *_, last = run(desk, BrowserSession(), PROMPT, DeckValue(), "keep", params(40), 0, by(desk, formula))
    assert text(last) == desk.generate(PROMPT, params=params(40), formula=formula).text != plain
    assert word not in text(last)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=4)), max_size=5), st.integers(0, 24))
def test_shortening_takes_characters_off_the_end(pieces: list[tuple[str, str]], characters: int) -> None:
    whole, left = "".join(piece for _, piece in pieces), shortened(pieces, characters)
    assert "".join(piece for _, piece in left) == whole[: max(0, len(whole) - characters)]
    assert [label for label, _ in left] == [label for label, _ in pieces][: len(left)]


def test_a_formula_that_fails_while_it_writes_names_the_place(desk: Desk) -> None:
    browser, name = BrowserSession(), next(iter(desk.attributes))
    formula = f"indicator(base - {name}) * base - 0.5*base"
    *_, last = run(desk, browser, PROMPT, DeckValue(), "keep", params(), 0, by(desk, formula))
    assert (last.state, browser.busy) == ("error", False)
    assert last.fault is not None
    assert last.fault["text"] == formula
    assert last.fault["message"] in last.error


@pytest.mark.parametrize("prompt", ["", "   \n", "word " * 20_000])
def test_a_prompt_that_cannot_be_used_is_answered_in_a_sentence(desk: Desk, prompt: str) -> None:
    browser = BrowserSession()
    *_, last = run(desk, browser, prompt, DeckValue(), "keep", params())
    assert last.state == "error"
    assert "prompt" in last.error
    assert not browser.busy


@pytest.mark.parametrize(
    "chosen", [(0, 0.8, 1), (24, -1, 1), (24, 0.8, -2), (24, float("nan"), 1), (2.5, 0.8, 1), ("x", 0.8, 1), (24, 3, 1)]
)
def test_options_out_of_range_are_refused(chosen: tuple[Any, Any, Any]) -> None:
    with pytest.raises(MixerError):
        options(*chosen)


def test_no_seed_draws_a_fresh_one() -> None:
    assert options(24, 0.8, None).seed is not None
    assert len({options(24, 0.8, None).seed for _ in range(20)}) > 1


def test_a_short_text_is_not_measured_and_a_long_one_is() -> None:
    measure = TextMeter(lambda text: {"length": float(len(text))})
    assert measure("short", now=True) == {}
    assert measure("a text of some length", now=True) == {"length": 21.0}
    assert measure("a text of some length") == {}
