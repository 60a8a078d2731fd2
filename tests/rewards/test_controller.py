"""Steering of one row: equal to the definitions in `mixer.rewards.heads`, within the budget, and no change at rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixer.rewards.controller import MIN_P, POLE_NATS, RewardController, SteeredLogits
from mixer.rewards.heads import HeadCalibration, Reward, RewardHead, advantage, likely
from mixer.rewards.reference import divergence, steer_logprobs
from mixer.values.steering import REST, Steering

D, V = 24, 200  # neither a rank nor D is a multiple of 16
NAMES = ("humor", "poetry", "toxicity")
seeds = st.integers(0, 2**31 - 1)
sliders = st.dictionaries(st.sampled_from(NAMES), st.floats(-3, 3), min_size=1)
temperatures = st.sampled_from([0.0, 0.5, 1.0, 1.7])


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reward(seed: int, rank: int) -> Reward:
    head = RewardHead(numbers(seed, rank, D), numbers(seed + 1, D, rank) / 5, numbers(seed + 2, D) / 9, 0.4)
    return Reward(NAMES[seed % 3], head, HeadCalibration(0.5 + seed, 2.0, {POLE_NATS: 1.5}, {POLE_NATS: 1.2}))


EMBEDDING = numbers(9, V, D)
CONTROLLER = RewardController({NAMES[i]: reward(i, rank) for i, rank in enumerate((3, 16, 20))}, EMBEDDING)


def row(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(V,)` and a state `(D,)`."""
    return 3 * numbers(seed, V), numbers(seed + 1, D)


def bias_of(logprobs: torch.Tensor, state: torch.Tensor, positions, reach: int) -> torch.Tensor:
    """The bias of heads at these positions, `(V,)`, by the definitions."""
    mask = likely(logprobs, reach, MIN_P)
    probs, total = torch.where(mask, logprobs.exp(), 0.0), torch.zeros(V)
    for name, position in positions.items():
        head, calibration = CONTROLLER.heads[name].head, CONTROLLER.heads[name].calibration
        values = advantage(head.rewards(state, EMBEDDING), probs, calibration.sigma, calibration.clip)
        total += position * calibration.betas[POLE_NATS] * values
    return torch.where(mask, total, 0.0)


def steered(
    logits: torch.Tensor, state: torch.Tensor, steering: Steering, *more, controller: RewardController = CONTROLLER
) -> SteeredLogits:
    return controller.steer(logits, state, controller.prepare(steering), *more)


def warm(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax(logits / (temperature or 1.0), -1)


@given(seeds, sliders, temperatures, st.floats(0, 4), st.integers(2, 100), st.booleans())
def test_steering_is_what_the_definitions_say(seed, positions, temperature, budget, reach, cut):
    logits, state = row(seed)
    steering = Steering(positions, budget=budget, reach=reach, cut=cut)
    found, before = steered(logits, state, steering, temperature), warm(logits, temperature)
    bias = bias_of(before, state, steering.positions, reach)
    expected = steer_logprobs(before, bias, budget, reach, MIN_P, cut) if steering.positions else before
    assert found.nats <= budget + 1e-6
    assert torch.allclose(warm(found.logits, temperature).exp(), expected.exp(), atol=2e-3)


@given(seeds, sliders, temperatures, st.sampled_from([0.05, 0.5, 2.0]))
def test_the_budget_holds_and_the_nats_are_true(seed, positions, temperature, budget):
    logits, state = row(seed)
    found = steered(logits, state, Steering(positions, budget=budget), temperature)
    before, after = warm(logits, temperature), warm(found.logits, temperature)
    true = float(divergence(before, after.double() - before))
    assert true <= budget * 1.0001 + 1e-5 and true == pytest.approx(found.nats, abs=1e-4)


@given(seeds, temperatures)
def test_at_rest_the_very_same_logits_come_back(seed, temperature):
    logits, state = row(seed)
    for rest in (REST, Steering(), Steering(dict.fromkeys(NAMES, 0.0)), Steering({"humor": 1.0}, fused=True)):
        assert steered(logits, state, rest, temperature).logits is logits
    assert torch.equal(logits, row(seed)[0])  # steering does not write into the given logits
    steered(logits, state, Steering({"humor": 2.0}), temperature)
    assert torch.equal(logits, row(seed)[0])


@given(seeds)
def test_tokens_out_of_reach_keep_their_logits(seed):
    logits, state = row(seed)
    found = steered(logits, state, Steering({"humor": 2.0}, reach=5), 1.0).logits
    moved = (found != logits).nonzero()[:, 0].tolist()
    assert set(moved) <= set(logits.topk(5).indices.tolist())


@given(seeds, st.floats(0, 1))
def test_a_level_is_aimed_for_by_the_head_s_own_reading(seed, level):
    logits, state = row(seed)
    found = steered(logits, state, Steering(levels={"poetry": level}, budget=None), 1.0)
    reading = float(CONTROLLER.heads["poetry"].head.baseline(state))
    assert found.levels == {"poetry": pytest.approx(reading, abs=1e-4)}
    position = min(1.0, max(-1.0, 2 * (level - found.levels["poetry"])))
    same = steered(logits, state, Steering({"poetry": position}, budget=None), 1.0)
    assert torch.allclose(found.logits, same.logits, atol=1e-5)


@given(seeds, sliders, st.sampled_from([0.1, 1.0]), temperatures)
def test_what_steered_already_counts_toward_the_budget(seed, positions, budget, temperature):
    """The budget also counts what a mix or a judge changed before. A large budget returns the whole sum."""
    base, state = row(seed)
    logits = base + numbers(seed + 7, V)
    steering = Steering(positions, budget=budget)
    found = steered(logits, state, steering, temperature, (), logits, base)
    before, after = warm(base, temperature), warm(found.logits, temperature)
    assert float(divergence(before, after.double() - before)) <= budget * 1.001 + 1e-4
    wide = steered(logits, state, replace(steering, budget=20.0), temperature, (), logits, base)
    free = steered(logits, state, replace(steering, budget=None), temperature)
    assert torch.allclose(wide.logits, free.logits, atol=1e-4)
    same = steered(base, state, Steering(), temperature, (), base, base)
    assert same.logits is base


class Model:
    """A reward model that rewards even tokens and records its calls."""

    calibration, reach = HeadCalibration(0.5, 4.0, {POLE_NATS: 2.0}, {}), 7

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def rewards(self, ids: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        self.asked.append((tuple(ids), tuple(tokens)))
        return torch.tensor([1.0 - token % 2 for token in tokens])


def test_a_reward_model_is_asked_about_the_likeliest_tokens_alone():
    controller, model = RewardController({}, EMBEDDING), Model()
    controller.models["even"] = model
    logits, state = row(3)
    steering = Steering({"even": 1.0}, budget=None)
    found = steered(logits, state, steering, 1.0, [5, 6], controller=controller)
    best = logits.topk(7).indices.tolist()
    assert model.asked == [((5, 6), tuple(best))]
    probs = torch.softmax(logits, -1)[best]
    even = torch.tensor([1.0 - token % 2 for token in best])
    level = float((even * probs).sum() / probs.sum())
    assert found.levels == {"even": pytest.approx(level, abs=1e-5)}
    expected = logits.clone()
    expected[best] += 2.0 * ((even - level) / 0.5).clamp(-4, 4)
    assert torch.allclose(found.logits, expected, atol=1e-5)


def test_fused_strengths_are_in_the_order_of_heads():
    strengths = CONTROLLER.prepare(Steering({"toxicity": -1.0, "humor": 2.0}, fused=True)).strengths or ()
    assert strengths == (pytest.approx(2 * 1.2 / 0.5), 0.0, pytest.approx(-1.2 / 2.5))
    assert not math.isnan(sum(strengths))
