"""Reward heads: fused heads equal single heads, and steering keeps unlikely tokens and the budget."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.rewards.heads import RewardHead, Trunk, advantage, fused_matrix, likely
from mixer.rewards.reference import budget_share, divergence, steer_logprobs

D, V, S = 24, 150, 4
seeds = st.integers(0, 2**31 - 1)
strengths = st.lists(st.floats(-20, 20), min_size=1, max_size=6)
budgets = st.floats(0, 3)


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head(seed: int, rank: int = 3, trunk: Trunk | None = None) -> RewardHead:
    return RewardHead(numbers(seed, rank, D) / 5, numbers(seed + 1, D, rank) / 5, numbers(seed + 2, D), 0.5, trunk)


def logprobs(seed: int, *rows: int) -> torch.Tensor:
    return torch.log_softmax(3 * numbers(seed, *rows, V), dim=-1)


@given(seeds)
def test_rewards_are_a_baseline_and_a_bilinear_form(seed: int):
    own, h, embedding = head(seed), numbers(seed + 3, 5, D), numbers(seed + 4, V, D)
    expected = h @ own.weight + own.bias
    expected = expected[:, None] + h @ (own.up @ own.down).T @ embedding.T
    assert torch.allclose(own.rewards(h, embedding), expected, atol=1e-3)
    few = torch.randint(V, (5, 7))
    assert torch.allclose(own.rewards(h, embedding[few]), expected.gather(1, few), atol=1e-3)


@given(seeds, strengths)
def test_fused_heads_equal_heads_one_by_one(seed: int, strengths: list[float]):
    heads = [head(seed + 10 * i) for i in range(len(strengths))]
    h, embedding = numbers(seed + 5, 4, D).double(), numbers(seed + 6, V, D).double()
    heads = [RewardHead(a.down.double(), a.up.double(), a.weight.double(), a.bias) for a in heads]
    fused = h @ fused_matrix(heads, strengths).T @ embedding.T
    apart = h @ embedding.T
    for own, strength in zip(heads, strengths, strict=True):
        apart = apart + strength * (own.rewards(h, embedding) - own.baseline(h)[:, None])
    assert torch.allclose(fused, apart, atol=1e-9)


def test_heads_at_rest_fuse_to_the_identity_whatever_their_numbers():
    broken = RewardHead(torch.full((2, D), torch.nan), torch.full((D, 2), torch.inf), torch.zeros(D))
    assert torch.equal(fused_matrix([broken, head(1)], [0.0, 0.0]), torch.eye(D))
    with pytest.raises(ValueError, match="trunk"):
        fused_matrix([head(1, trunk=Trunk(torch.ones(S)))], [1.0])


@given(seeds)
def test_a_trunk_reads_all_layers_whatever_their_lengths(seed: int):
    states, mix = numbers(seed, 6, S, D), numbers(seed + 1, S)
    trunk = Trunk(mix, numbers(seed + 2, 8, D), numbers(seed + 3, D, 8))
    lengths = 10 ** numbers(seed + 4, S, 1)
    assert torch.allclose(trunk(states), trunk(states * lengths), rtol=1e-3, atol=1e-2)
    last = Trunk(torch.tensor([0.0] * (S - 1) + [1.0]))(states)
    assert torch.allclose(last, states[:, -1] / states[:, -1].square().mean(-1, keepdim=True).sqrt(), atol=1e-4)
    assert torch.equal(head(seed).state(states), states[:, -1])


@given(seeds, st.floats(-50, 50), st.floats(0.1, 10))
def test_an_advantage_has_mean_zero_and_forgets_the_baseline(seed: int, constant: float, sigma: float):
    probs, rewards = logprobs(seed, 3).exp().double(), numbers(seed + 1, 3, V).double()
    own = advantage(rewards, probs, sigma)
    assert (own * probs).sum(-1).abs().max() < 1e-6
    assert torch.allclose(own, advantage(rewards + constant, probs, sigma), atol=1e-9)
    assert torch.allclose(own, advantage(rewards, 7 * probs, sigma), atol=1e-9)
    assert advantage(rewards, probs, sigma, clip=0.3).abs().max() <= 0.3


@given(seeds, st.integers(1, 200), st.floats(1e-6, 1))
def test_likely_tokens_are_the_first_ones_and_never_none(seed: int, top_k: int, min_p: float):
    own = logprobs(seed)
    kept = likely(own, top_k, min_p)
    assert 1 <= int(kept.sum()) <= top_k and kept[own.argmax()]
    assert own[kept].min() >= own.max() + math.log(min_p) - 1e-5
    assert int(kept.sum()) == V or own[~kept].max() <= own[kept].min()


@settings(max_examples=40)
@given(seeds, st.floats(0, 100), budgets)
def test_the_budget_is_respected_and_used(seed: int, scale: float, budget: float):
    own, bias = logprobs(seed, 4), scale * numbers(seed + 1, 4, V)
    share = budget_share(own, bias, budget)
    assert ((share >= 0) & (share <= 1)).all()
    assert (divergence(own, bias, share) <= budget).all()
    # A kappa below 1 is the largest that fits: a little more exceeds the budget.
    assert (divergence(own, bias, share + 1e-9)[share < 1] > budget - 1e-6).all()


@settings(max_examples=40)
@given(seeds, st.floats(0.01, 30), budgets, st.booleans())
def test_a_steered_distribution_keeps_within_the_budget(seed: int, scale: float, budget: float, cut: bool):
    own, bias = logprobs(seed, 3), scale * numbers(seed + 1, 3, V)
    steered, some = steer_logprobs(own, bias, budget, top_k=40, cut=cut), likely(own, 40)
    assert torch.allclose(steered.exp().sum(-1), torch.ones(3), atol=1e-4)
    before = torch.log_softmax(own.masked_fill(~some, -torch.inf), -1) if cut else own
    moved = torch.where(steered.exp() > 0, steered.exp() * (steered - before), 0.0).sum(-1)
    assert (moved <= budget + 1e-4).all()
    for one, former, kept in zip(steered, own, some, strict=True):
        if cut:
            assert (one[~kept] == -torch.inf).all()
        else:  # the probabilities of all other tokens keep their ratios
            assert (one - former)[~kept].std() < 1e-4


@settings(max_examples=40)
@given(seeds, budgets)
def test_no_strength_is_no_change_bit_for_bit(seed: int, budget: float):
    own, bias = logprobs(seed, 3), numbers(seed + 1, 3, V)
    bias[1] = 0
    assert torch.equal(steer_logprobs(own, bias, budget)[1], own[1])
    assert torch.equal(steer_logprobs(own, 0 * bias, budget), own)
    assert torch.allclose(steer_logprobs(own, bias, 0.0), own, atol=1e-5)


@settings(max_examples=40)
@given(seeds, st.floats(1e-3, 30), budgets)
def test_rows_are_steered_apart(seed: int, scale: float, budget: float):
    own, bias = logprobs(seed, 3), scale * numbers(seed + 1, 3, V)
    together = steer_logprobs(own, bias, budget)
    assert all(torch.allclose(together[i], steer_logprobs(own[i], bias[i], budget), atol=1e-5) for i in range(3))


@given(seeds, st.floats(0, 10))
def test_divergence_is_kl_also_where_tokens_are_cut_off(seed: int, scale: float):
    own, bias = logprobs(seed), scale * numbers(seed + 1, V)
    own = torch.log_softmax(own.masked_fill(numbers(seed + 2, V) > 0.5, -torch.inf), -1)
    steered = torch.log_softmax((own + bias).double(), -1)
    expected = torch.where(own.isfinite(), steered.exp() * (steered - own), 0.0).sum()
    assert float(divergence(own, bias)) == pytest.approx(float(expected), abs=1e-5)
