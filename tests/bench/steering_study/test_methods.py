"""Laws of the methods: at rest all write the same, and one figure says how far each is from the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.steering_study.methods import BUDGET, REACH, Direction, Method, Writer, excess
from mixer.adapters.anchor_set import load_anchors
from mixer.desk import Desk
from mixer.model.base import load_base
from mixer.model.model import Model
from mixer.rewards.controller import MIN_P
from mixer.rewards.heads import HeadCalibration, Reward, RewardHead, likely
from mixer.rewards.reference import divergence
from mixer.values.request import Request
from mixer.values.sampling import SamplingParams

PROMPTS = ("Once upon", "The boat", "A dog", "We")
STEERED, FUSED = Method("ARM", "method"), Method("ARM fused", "method", fused=True)
LORA, BOTH = Method("LoRA", anchors=True), Method("LoRA + ARM", "method", anchors=True)


@pytest.fixture(scope="module")
def writer(tiny: Path) -> Writer:
    lm, tokenizer = load_base(str(tiny / "base"), torch.device("cpu"), torch.float32)
    anchors = load_anchors(tiny / "anchors", lm, str(tiny / "base"))
    generator = torch.Generator().manual_seed(3)
    down, up = torch.randn(2, 32, generator=generator), torch.randn(32, 2, generator=generator)
    calibration = HeadCalibration(20.0, 4.0, {0.1: 0.5, 0.5: 1.0}, {0.1: 0.4, 0.5: 0.9})
    rewards = {"method": Reward("humor", RewardHead(down, up, torch.zeros(32)), calibration)}
    desk = Desk(Model(lm, tokenizer, anchors), anchors, None, "tiny", rewards=rewards)
    return Writer(desk, rewards, Direction("humor", -1.0, "formality", 1.0))


def test_at_rest_every_arm_writes_what_the_base_writes(writer: Writer):
    first, *others = (writer.write(method, 0.0, PROMPTS, 8, 7) for method in (STEERED, FUSED, LORA, BOTH))
    assert all(own == first for own in others) and first.most == 0 and not any(first.nats)
    assert first.tokens == (8,) * len(PROMPTS)


@pytest.mark.parametrize("slider", [0.5, 3.0])
def test_a_second_pass_finds_what_the_desk_says_it_spent(writer: Writer, slider: float):
    mix, steering = writer.settings(STEERED, slider)
    assert steering.positions == {"method": -slider} and steering.cut and steering.reach == REACH and not mix.settings
    params = SamplingParams(8, 8, temperature=1.0, top_p=1.0, seed=7)
    outputs = writer.desk.generate_batch([Request(prompt, mix, params, steering=steering) for prompt in PROMPTS])
    apart = writer.distances(STEERED, slider, PROMPTS, outputs)
    for own, output in zip(apart, outputs, strict=True):
        assert own.shape == (len(output.token_ids),)
        assert own.mean() == pytest.approx(output.stats.nats, abs=1e-4)
        assert own.max() == pytest.approx(output.stats.most_nats, abs=1e-4)
    written = writer.write(STEERED, slider, PROMPTS, 8, 7)
    assert written.texts[0] == outputs[0].text and written.nats[0] == pytest.approx(float(apart[0].sum()), abs=1e-3)


@pytest.mark.parametrize("method", [FUSED, LORA, BOTH])
def test_arms_that_change_the_network_are_measured_too(writer: Writer, method: Method):
    near, far = (writer.write(method, slider, PROMPTS, 8, 7) for slider in (0.05, 1.0))
    assert 0 < sum(near.nats) < sum(far.nats) and far.most <= sum(far.nats)


def test_lora_and_reward_share_a_budget_over_the_whole(writer: Writer):
    mix, steering = writer.settings(BOTH, 0.5)
    assert mix.settings["formality"].position == 0.5
    assert steering.whole and steering.budget == BUDGET and steering.positions == {"method": -0.5}
    fused = writer.settings(FUSED, 0.5)[1]
    assert fused.fused and fused.budget is None and writer.settings(LORA, 0.5)[1].heads == ()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.1, 3))
def test_the_excess_is_the_divergence_among_likely_tokens(seed: int, strength: float):
    generator = torch.Generator().manual_seed(seed)
    whole = torch.log_softmax(3 * torch.randn(3, 200, generator=generator), -1)
    some = likely(whole, REACH, MIN_P)
    cut = torch.log_softmax(whole.masked_fill(~some, -torch.inf), -1)
    assert excess(cut, whole, whole) == pytest.approx([0, 0, 0], abs=1e-5)
    bias = torch.where(some, strength * torch.randn(3, 200, generator=generator), 0.0)
    assert excess(torch.log_softmax(cut + bias, -1), whole, whole) == pytest.approx(divergence(cut, bias), abs=1e-4)
    # Other tokens than the likeliest cost more than these do, however they are shared out.
    other = torch.log_softmax(whole.masked_fill(some, -torch.inf), -1)
    assert (excess(other, whole, whole) > 0).all()
