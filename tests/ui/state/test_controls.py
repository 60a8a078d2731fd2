from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import MixerError
from mixer.ui.state.controls import (
    LIMIT,
    MAX_SEQ,
    REST,
    BoxValue,
    DeckValue,
    describe,
    read_box,
    read_positions,
    read_prompt,
    read_question,
    read_steering,
    read_value,
)
from mixer.values.steering import BUDGET, Steering

NAMES = ("formality", "humor", "poetry")
HEADS = ("humor", "toxicity")
names = st.sampled_from(NAMES)
inside = st.floats(-LIMIT, LIMIT)
outside = st.one_of(st.floats(min_value=LIMIT, exclude_min=True), st.floats(max_value=-LIMIT, exclude_max=True))
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | names, inner),
    max_leaves=12,
)


@given(st.integers(0, MAX_SEQ), st.dictionaries(names, inside))
def test_what_the_deck_sends_is_read_back_with_rest_left_out(seq: int, positions: dict[str, float]) -> None:
    value = read_value({"seq": seq, "positions": positions}, NAMES)
    assert value == DeckValue(seq, {name: x for name, x in positions.items() if x != 0.0})


@given(st.dictionaries(st.sampled_from(HEADS), st.floats(-3, 3)), st.none() | st.floats(0, 20), st.booleans())
def test_what_the_rewards_send_is_read_back(rewards: dict[str, float], budget: float | None, whole: bool) -> None:
    posted = {"seq": 1, "positions": {}, "rewards": rewards, "levels": {}, "budget": budget, "whole": whole}
    assert read_value(posted, NAMES, HEADS) == DeckValue(1, {}, Steering(rewards, {}, budget, whole))


def test_a_value_without_rewards_is_one_at_rest_and_the_budget_comes_with_what_steers() -> None:
    assert read_value({"seq": 1, "positions": {"humor": 1}}, NAMES, HEADS) == DeckValue(1, {"humor": 1.0}, REST)
    assert read_steering({"rewards": {"humor": 0.5}}, HEADS) == Steering({"humor": 0.5}, budget=BUDGET)
    assert read_steering({"levels": {"toxicity": 0}}, HEADS) == Steering(levels={"toxicity": 0.0}, budget=BUDGET)
    assert read_steering({"whole": True}, ()) == Steering(whole=True)
    assert read_steering({"rewards": {"humor": 1}, "budget": None}, HEADS).budget is None


@pytest.mark.parametrize(
    ("posted", "message"),
    [
        ({"rewards": {"humour": 1}}, "no reward called 'humour'. Did you mean humor"),
        ({"rewards": {"humor": 9}}, "reward humor is 9"),
        ({"levels": {"humor": -0.1}}, "level of humor is -0.1"),
        ({"levels": {"humor": math.nan}}, "level of humor is nan"),
        ({"rewards": {"humor": 1}, "levels": {"humor": 1}}, "both a position and a level"),
        ({"rewards": [1]}, "rewards are not an object"),
        ({"levels": None}, "levels are not an object"),
        ({"budget": "much"}, "budget must be a number"),
        ({"budget": -1}, "budget is -1"),
        ({"whole": 1}, "not true or false"),
    ],
)
def test_rewards_that_cannot_be_are_refused_in_words(posted: dict[str, Any], message: str) -> None:
    with pytest.raises(MixerError, match=message):
        read_value({"seq": 1, "positions": {}, **posted}, NAMES, HEADS)


parts = dict.fromkeys(("rewards", "levels", "budget", "whole"), json)


@given(json | st.fixed_dictionaries({"seq": json, "positions": json}, optional=parts))
def test_any_json_is_read_or_refused_in_words(posted: Any) -> None:
    try:
        value = read_value(posted, NAMES, HEADS)
    except MixerError as error:
        assert str(error)
        assert len(str(error)) < 400
    else:
        assert 0 <= value.seq <= MAX_SEQ
        assert value.positions.keys() <= set(NAMES)
        assert all(math.isfinite(x) and 0 < abs(x) <= LIMIT for x in value.positions.values())


@given(json | st.fixed_dictionaries({"text": json, "typed": json}))
def test_any_json_is_a_box_value_or_is_refused_in_words(posted: Any) -> None:
    try:
        value = read_box(posted)
    except MixerError as error:
        assert 0 < len(str(error)) < 400
    else:
        assert isinstance(value.text, str)
        assert value.typed in (True, False)
        value.text.encode()  # can be sent back


@given(json | st.fixed_dictionaries({"seq": json, "text": json, "positions": json}))
def test_any_json_is_a_question_or_is_refused_in_words(posted: Any) -> None:
    try:
        seq, text, positions = read_question(posted, NAMES)
    except MixerError as error:
        assert 0 < len(str(error)) < 400
    else:
        assert 0 <= seq <= MAX_SEQ
        text.encode()
        assert positions is None or positions.keys() <= set(NAMES)


@given(json, json, json, json)
def test_any_json_is_a_prompt_or_is_refused_in_words(prompt: Any, reply: Any, system: Any, messages: Any) -> None:
    for asked in ((prompt, reply, system, messages), ("", False, "", messages)):
        try:
            found = read_prompt(*asked)
        except MixerError as error:
            assert 0 < len(str(error)) < 400
        else:
            assert isinstance(found, str) == (asked[3] is None and asked[1] is False)


def test_an_empty_box_value_is_the_default_formula_and_halves_of_letters_are_replaced() -> None:
    assert read_box(None) == read_box("") == BoxValue("sliders", False)
    assert read_box({"text": "a\ud800"}) == BoxValue("a?", False)


@given(names, outside | st.just(math.nan) | st.booleans() | st.text() | st.none())
def test_a_position_that_is_no_number_in_range_is_refused_by_name(name: str, position: Any) -> None:
    with pytest.raises(MixerError, match=name):
        read_positions({name: position}, NAMES)


@given(st.text().filter(lambda name: name not in NAMES))
def test_an_unknown_attribute_is_refused(name: str) -> None:
    with pytest.raises(MixerError, match="attribute"):
        read_positions({name: 0.5}, NAMES)


@pytest.mark.parametrize("seq", [-1, 0.5, "1", True, None, MAX_SEQ + 1])
def test_a_sequence_number_is_a_whole_number(seq: Any) -> None:
    with pytest.raises(MixerError, match="sequence"):
        read_value({"seq": seq, "positions": {}}, NAMES)


def test_a_mix_is_told_in_words() -> None:
    assert describe({"formality": 0.8, "humor": -0.4}) == "formality +0.80 · humor −0.40"
    assert describe({}) == describe({}, Steering()) == "base"
    steering = Steering({"humor": -0.4}, {"toxicity": 0.1})
    assert describe({"humor": 0.8}, steering) == "humor +0.80 · reward humor −0.40 · toxicity to 0.10"
