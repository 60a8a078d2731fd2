from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import InvalidValue, UnknownName
from mixer.values.mix import RULES, Anchor, Mix, Setting

NAMES = ("formality", "humor", "poetry")
ANCHORS = tuple(f"{name}.{pole}" for name in NAMES for pole in ("negative", "positive"))
positions = st.floats(-3, 3)
mixes = st.builds(
    lambda settings, rule: Mix({name: Setting.at(p, w) for name, (p, w) in settings.items()}, rule),
    st.dictionaries(st.sampled_from(NAMES), st.tuples(positions, st.floats(-2, 2))),
    st.sampled_from(RULES),
)


def close(a: Mix, b: Mix) -> bool:
    pairs = zip(a.coefficients(ANCHORS), b.coefficients(ANCHORS), strict=True)
    return all(math.isclose(x, y, abs_tol=1e-9) for x, y in pairs)


@given(mixes)
def test_a_mix_equals_and_hashes_like_its_coefficients(mix: Mix):
    raw = Mix(raw=dict(zip(ANCHORS, mix.coefficients(ANCHORS), strict=True)))
    assert raw == mix and hash(raw) == hash(mix) and raw.key == mix.key


@given(mixes, mixes, mixes)
def test_addition_is_a_commutative_group(a: Mix, b: Mix, c: Mix):
    assert a + b == b + a
    assert close((a + b) + c, a + (b + c))
    assert a + Mix() == a and a - a == Mix()


@given(mixes, mixes, st.floats(-3, 3))
def test_scaling_distributes_over_addition(a: Mix, b: Mix, factor: float):
    assert close(factor * (a + b), factor * a + factor * b)


@given(st.floats(-1, 2), st.floats(-2, 2))
def test_interpolation_gives_the_two_anchors_their_share_of_lambda(alpha: float, lambda_: float):
    negative, positive = Setting(alpha, lambda_).coefficients("interpolate")
    assert math.isclose(positive, lambda_ * alpha, abs_tol=1e-12)
    assert math.isclose(negative + positive, lambda_, abs_tol=1e-9)


@given(positions)
def test_offset_moves_the_anchor_on_its_own_side_alone(position: float):
    negative, positive = Setting.at(position).coefficients("offset")
    assert negative * positive == 0 and min(negative, positive) >= 0
    assert math.isclose(positive - negative, position, abs_tol=1e-9)


@given(mixes, st.sampled_from(NAMES), positions)
def test_moving_a_slider_leaves_the_former_mix_and_the_other_sliders_alone(mix: Mix, name: str, position: float):
    before = mix.weights
    moved = mix.with_position(name, position)
    assert mix.weights == before
    others = [a for a in ANCHORS if not a.startswith(name)]
    assert moved.without(name).coefficients(others) == mix.without(name).coefficients(others)
    assert math.isclose(moved.settings[name].position, position, abs_tol=1e-9)


def test_half_way_is_the_mean_of_the_anchors_under_interpolation_and_the_base_under_offset():
    assert Mix({"humor": Setting(0.5)}, "interpolate").weights == {"humor.negative": 0.5, "humor.positive": 0.5}
    assert Mix({"humor": Setting(0.5)}, "offset") == Mix()


def test_a_pole_that_was_not_trained_is_the_negative_of_the_other():
    mix = Mix({"humor": Setting.at(-0.75)})
    assert mix.coefficients(("humor.positive",)) == (-0.75,)


def test_an_unknown_anchor_is_named_with_its_nearest():
    with pytest.raises(UnknownName, match=r"'humour\.positive'.*Did you mean humor\.positive"):
        Mix({"humour": Setting.at(1)}).coefficients(ANCHORS)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 10**400, "0.5", None, True, [1]])
def test_what_is_no_finite_number_in_range_is_refused(bad):
    with pytest.raises(InvalidValue, match="number"):
        Setting.at(bad)
    with pytest.raises(InvalidValue, match="number"):
        Mix(raw={"humor.positive": bad})


def test_an_unknown_rule_is_refused():
    with pytest.raises(UnknownName, match="offset"):
        Mix(rule="ofset")  # type: ignore[arg-type]


def test_scaling_follows_lora_and_rslora():
    assert Anchor("a", "positive", "", 16, 32, "").scaling == 2
    assert Anchor("a", "positive", "", 16, 32, "", use_rslora=True).scaling == 8


def test_the_key_is_the_same_on_every_machine():
    assert Mix({"humor": Setting.at(0.8)}).key == "efbc72d9f0f77cdcfc8a13d1533e1855"
