"""Effects: the effect of a slider on a token is a difference of two plain log-probabilities."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer import Desk, Mix, SamplingParams, Segment, Steering, effects
from mixer.errors import FormulaError
from mixer.tasks.effects import EffectReplays
from tests.decoding.test_replay import PROMPT, PUSHED, TEXT, desk, ids
from tests.factory import merged_reference
from tests.model.parts import batch_exact

__all__ = ["desk"]
POSITIONS = st.floats(-1.5, 1.5).map(lambda value: round(value, 2))


def close(desk: Desk, expected: object):
    """What a value must equal: bit for bit if the backend promises that, otherwise within rounding."""
    return expected if batch_exact(desk.model.backend) else pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rule", ["offset", "interpolate"])
def test_effects_are_those_of_plain_transformers_with_merged_weights(tiny: Path, rule: Any):
    desk, anchors = Desk.load(tiny / "base", tiny / "anchors", device="cpu", auto_fold=False), tiny / "anchors"
    tokens, start = ids(desk), len(desk.model.encode(PROMPT))
    everything = torch.tensor([desk.model.encode(PROMPT + TEXT)])

    def plain(mix: Mix) -> torch.Tensor:
        parts = [(anchors / name.replace(".", "/"), weight) for name, weight in mix.weights.items()]
        with torch.inference_mode():
            logits = merged_reference(tiny / "base", parts)(everything).logits[0].double()
        return torch.log_softmax(logits, -1)[torch.arange(start - 1, everything.shape[1] - 1), list(tokens)]

    mixes = [desk.mix({"humor": 0.8, "formality": -0.5}, rule=rule), desk.mix({"formality": 1.2}, rule=rule)]
    found = effects(desk, PROMPT, [Segment(tokens[:7], mixes[0]), Segment(tokens[7:], mixes[1])])
    assert "".join(found.texts) == TEXT
    for at, mix in ((slice(7), mixes[0]), (slice(7, None), mixes[1])):
        written = plain(mix)
        assert found.logprobs[at] == pytest.approx(written[at].tolist(), abs=1e-4)
        assert found.everything[at] == pytest.approx((written - plain(Mix()))[at].tolist(), abs=1e-4)
        for name in ("humor", "formality"):
            effect = (written - plain(mix.without(name)))[at]
            assert found.attributes[name][at] == pytest.approx(effect.tolist(), abs=1e-4)
    assert found.rewards == {}


@settings(max_examples=10)
@given(POSITIONS, POSITIONS, st.integers(1, len(TEXT) - 1))
def test_what_is_at_rest_has_no_effect(desk: Desk, formality: float, humor: float, cut: int):
    tokens = ids(desk)
    segments = [Segment(tokens[:cut], desk.mix(formality=formality)), Segment(tokens[cut:], desk.mix(humor=humor))]
    found = effects(desk, PROMPT, segments)
    assert set(found.attributes) == {name for name, x in (("formality", formality), ("humor", humor)) if x}
    rest = (0.0,) * len(tokens)
    own, other = found.attributes.get("formality", rest), found.attributes.get("humor", rest)
    assert own[cut:] == close(desk, rest[cut:]) and other[:cut] == close(desk, rest[:cut])
    # In each segment one attribute is off rest, so its effect is the effect of everything.
    assert (*own[:cut], *other[cut:]) == close(desk, found.everything)


def test_a_reward_has_the_effect_of_its_steering(desk: Desk):
    tokens, params = ids(desk), SamplingParams(temperature=1)
    mix = desk.mix(humor=0.5)
    found = effects(desk, PROMPT, [Segment(tokens[:5], mix), Segment(tokens[5:], mix, PUSHED)], params)
    assert set(found.rewards) == {"humor", "toxicity"} and set(found.attributes) == {"humor"}
    for name, own in found.rewards.items():
        assert own[:5] == close(desk, (0.0,) * 5) and any(own[5:])
        for place in range(5, len(tokens)):
            steered, without = (
                desk.logprobs(PROMPT + TEXT[:place], mix, steering=steering)[tokens[place]]
                for steering in (PUSHED, PUSHED.without(name))
            )
            assert own[place] == pytest.approx(float(steered - without), abs=2e-4)


def test_under_a_formula_sliders_act_through_it_and_everything_is_against_the_base(desk: Desk):
    tokens, formula, mix = ids(desk), "2*sliders - [formality]", desk.mix(humor=0.5)
    found = effects(desk, PROMPT, [Segment(tokens, mix)], formula=formula)
    for place, token in enumerate(tokens):
        text = PROMPT + TEXT[:place]
        written, rest = (float(desk.logprobs(text, own, formula)[token]) for own in (mix, Mix()))
        assert found.attributes["humor"][place] == pytest.approx(written - rest, abs=2e-4)
        assert found.everything[place] == pytest.approx(written - float(desk.logprobs(text)[token]), abs=2e-4)


def test_sliders_that_a_formula_does_not_name_have_no_effect(desk: Desk):
    found = effects(desk, PROMPT, [Segment(ids(desk), desk.mix(humor=1))], formula="base + [formality]")
    assert found.attributes == {} and any(found.everything)


def test_a_token_that_is_impossible_without_a_slider_has_an_infinite_effect(desk: Desk):
    mix, params = desk.mix(humor=1.5, formality=-1.5), SamplingParams(max_new_tokens=12, seed=5)
    formula = "top(sliders, k=1)"
    output = desk.generate(PROMPT, mix, params, formula)
    found = effects(desk, PROMPT, [Segment(output.token_ids, mix)], params, formula)
    own = [*found.attributes["humor"], *found.attributes["formality"]]
    assert found.logprobs == (0.0,) * 12 and set(own) <= {0.0, math.inf} and math.inf in own


def test_a_formula_that_comes_to_nothing_at_rest_says_so(desk: Desk):
    formula = "max(sliders, base) - base + 0*uniform"
    with pytest.raises(FormulaError):
        effects(desk, PROMPT, [Segment(ids(desk), desk.mix(humor=1))], formula=formula)
    assert desk.scheduler.rows_in_use == 0


def test_many_replays_run_in_batches_and_rows_are_freed_when_they_are_stopped(desk: Desk):
    formula = " + ".join(f'[sliders] @ "{letter}"' for letter in "abcdefgh")
    segments = [Segment(ids(desk)[:4], desk.mix(humor=1, formality=1), Steering({"humor": 1.0}))]
    replays, shares = EffectReplays(desk, PROMPT, segments, formula=formula), []
    for share in replays.run():
        shares.append(share)
        assert desk.scheduler.rows_in_use <= 32
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1) and len(replays.effects.texts) == 4
    stopped = EffectReplays(desk, PROMPT, [replace(segments[0], exact=False)], formula=formula).run()
    next(stopped)
    stopped.close()
    assert desk.scheduler.rows_in_use == 0
