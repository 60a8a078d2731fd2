"""Steerings: allowed values, changed copies, equality and keys."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import InvalidValue
from mixer.values.steering import Steering

names = st.sampled_from(["humor", "sentiment", "toxicity"])
positions = st.dictionaries(names, st.floats(-3, 3))


@given(positions)
def test_sliders_at_rest_are_no_heads(positions: dict[str, float]):
    steering = Steering(positions)
    assert dict(steering.positions) == {name: value for name, value in positions.items() if value}
    assert steering == Steering(steering.positions) and steering.heads == tuple(steering.positions)


@given(positions, names, st.floats(-3, 3), st.floats(0, 1))
def test_a_head_has_a_position_or_a_level_never_both(
    positions: dict[str, float], name: str, value: float, level: float
):
    aiming = Steering(positions).with_level(name, level)
    assert aiming.levels == {name: level} and name not in aiming.positions
    moved = aiming.with_position(name, value)
    assert not moved.levels and moved.positions.get(name, 0.0) == value
    assert {own: moved.positions.get(own) for own in positions if own != name} == {
        own: value or None for own, value in positions.items() if own != name
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"positions": {"humor": 3.1}}, "reward humor is 3.1"),
        ({"positions": {"humor": math.nan}}, "out of range"),
        ({"positions": {"humor": "1"}}, "must be a number"),
        ({"levels": {"humor": -0.1}}, "level of humor"),
        ({"budget": -1.0}, "budget is -1"),
        ({"budget": math.inf}, "budget"),
        ({"reach": 0}, "reach"),
        ({"reach": 1.5}, "whole number"),
        ({"positions": {"humor": 1.0}, "levels": {"humor": 0.5}}, "both a position and a level"),
        ({"positions": {"humor": 1.0}, "fused": True, "cut": True}, "Fused heads"),
        ({"levels": {"humor": 1.0}, "fused": True}, "Fused heads"),
    ],
)
def test_what_cannot_be_says_why(options: dict, says: str):
    with pytest.raises(InvalidValue, match=says):
        Steering(**options)


def test_a_steering_is_a_value():
    steering = Steering({"humor": 1.0})
    with pytest.raises(FrozenInstanceError):
        steering.budget = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        steering.positions["humor"] = 2.0  # type: ignore[index]
    assert str(steering) == "humor +1.00, at most 1 nats" and str(Steering()) == "no rewards"
    assert str(replace(steering, positions={}, levels={"humor": 0.7}, budget=None)) == "humor to 0.70"


numbers = st.floats(0, 1) | st.sampled_from([0.0, -0.0])
steerings = st.builds(
    Steering,
    positions=st.dictionaries(st.sampled_from(["humor", "sentiment"]), numbers),
    levels=st.dictionaries(st.sampled_from(["toxicity", "charm"]), numbers),
    budget=st.none() | numbers,
    whole=st.booleans(),
    reach=st.integers(1, 3),
    cut=st.booleans(),
)


@given(steerings, steerings)
def test_equal_steerings_and_no_others_have_equal_keys(one: Steering, other: Steering):
    assert (one == other) == (one.key == other.key)
    turned = replace(
        one, positions=dict(reversed(list(one.positions.items()))), levels=dict(reversed(list(one.levels.items())))
    )
    assert turned == one and turned.key == one.key


def test_what_the_budget_counts_is_part_of_the_key():
    assert Steering(whole=True).key != Steering().key and str(Steering(whole=True)) == str(Steering())
    assert Steering().key == Steering().key != Steering({"humor": 1.0}).key
