from __future__ import annotations

from typing import Any

import pytest

from mixer import Desk, SamplingParams
from mixer.errors import MixerError
from mixer.ui.registry import Live
from mixer.ui.stage import Frame
from mixer.ui.stream import Measure, options, run
from mixer.ui.value import DeckValue, describe

PROMPT = "The door was"


def params(tokens: int = 24) -> SamplingParams:
    return SamplingParams(max_new_tokens=tokens, seed=7)


def text(frame: Frame) -> str:
    return "".join(part for _, part in frame.mix)


def move(desk: Desk, live: Live, seq: int, position: float) -> None:
    positions = {next(iter(desk.attributes)): position}
    assert live.steer(DeckValue(seq, positions), desk.mix(positions), describe(positions))


def test_the_last_frame_holds_both_whole_texts(desk: Desk) -> None:
    positions = {next(iter(desk.attributes)): 0.5}
    *_, last = run(desk, Live(), PROMPT, DeckValue(1, positions), "keep", params())
    assert last.state == "done"
    assert last.base == desk.generate(PROMPT, params=params()).text
    assert text(last) == desk.generate(PROMPT, mix=desk.mix(positions), params=params()).text
    assert [label for label, _ in last.mix] == [describe(positions)]
    assert last.status["seed"] == 7
    assert last.status["exact"]


def test_with_every_slider_at_rest_both_texts_are_the_same(desk: Desk) -> None:
    *_, last = run(desk, Live(), PROMPT, DeckValue(), "keep", params())
    assert text(last) == last.base != ""


def test_a_move_takes_effect_without_a_restart_and_is_marked(desk: Desk) -> None:
    live = Live()
    before = ""
    last = Frame()
    for frame in run(desk, live, PROMPT, DeckValue(), "keep", params(60)):
        if not before and text(frame):
            before = text(frame)
            move(desk, live, 1, 1.5)
        last = frame
    assert text(last).startswith(before)
    assert [label for label, _ in last.mix] == ["base", describe({next(iter(desk.attributes)): 1.5})]
    assert last.seq == 1
    assert not last.status["exact"]


def test_restart_begins_the_text_again_under_the_new_mix(desk: Desk) -> None:
    live = Live()
    positions = {next(iter(desk.attributes)): 1.0}
    moved = False
    last = Frame()
    for frame in run(desk, live, PROMPT, DeckValue(), "restart", params()):
        if not moved and text(frame):
            move(desk, live, 1, 1.0)
            moved = True
        last = frame
    assert text(last) == desk.generate(PROMPT, mix=desk.mix(positions), params=params()).text
    assert len(last.mix) == 1


def test_stop_ends_the_take_and_keeps_the_text(desk: Desk) -> None:
    live = Live()
    last = Frame()
    for frame in run(desk, live, PROMPT, DeckValue(), "keep", params(400)):
        if text(frame):
            live.stop()
        last = frame
    assert last.state == "stopped"
    assert text(last) == last.base != ""
    assert not live.busy


def test_closing_the_generator_frees_the_rows(desk: Desk) -> None:
    live = Live()
    frames = run(desk, live, PROMPT, DeckValue(), "keep", params(400))
    next(frames)
    assert live.busy
    frames.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not live.busy


@pytest.mark.parametrize("prompt", ["", "   \n", "word " * 20_000])
def test_a_prompt_that_cannot_be_used_is_answered_in_a_sentence(desk: Desk, prompt: str) -> None:
    live = Live()
    *_, last = run(desk, live, prompt, DeckValue(), "keep", params())
    assert last.state == "error"
    assert "prompt" in last.error
    assert not live.busy


@pytest.mark.parametrize(
    "chosen", [(0, 0.8, 1), (24, -1, 1), (24, 0.8, -1), (24, float("nan"), 1), (2.5, 0.8, 1), ("x", 0.8, 1), (24, 3, 1)]
)
def test_options_out_of_range_are_refused(chosen: tuple[Any, Any, Any]) -> None:
    with pytest.raises(MixerError):
        options(*chosen)


def test_no_seed_draws_a_fresh_one() -> None:
    assert options(24, 0.8, None).seed is not None
    assert len({options(24, 0.8, None).seed for _ in range(20)}) > 1


def test_a_short_text_is_not_measured_and_a_long_one_is() -> None:
    measure = Measure(lambda text: {"length": float(len(text))})
    assert measure("short", now=True) == {}
    assert measure("a text of some length", now=True) == {"length": 21.0}
    assert measure("a text of some length") == {}
