"""Measures of a reward head: the strengths that spend a budget, and how well it follows a reward model.

Knows samples of prefixes; no texts, no training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixer.rewards.heads import HeadCalibration, RewardHead, advantage, likely
from mixer.rewards.reference import divergence
from mixer.training.prefix_samples import LIKELY, PrefixSamples

BUDGETS = (0.1, 0.5)  # nats a token
CLIP = 4.0


def centred(values: Tensor) -> Tensor:
    """Rows minus their means, `(..., k)`."""
    return values - values.mean(-1, keepdim=True)


@torch.inference_mode()
def calibrate(head: RewardHead, samples: PrefixSamples, embedding: Tensor, most: int = 400) -> HeadCalibration:
    """Sigma, and the strengths that spend each budget, on `most` random ones of these samples.

    Args:
        embedding: the base's output embedding, `(V, D)` float32.
    """
    drawn = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:most]
    states = samples.states[drawn].float()
    final, rewards = states[:, -1], head.rewards(head.state(states), embedding)
    logprobs = torch.log_softmax(final @ embedding.T, dim=-1)
    some = likely(logprobs)
    probs = torch.where(some, logprobs.exp(), 0.0)
    sigma = max(float(advantage(rewards, probs)[some].square().mean().sqrt()), 1e-8)
    steering = torch.where(some, advantage(rewards, probs, sigma, CLIP), 0.0)
    # All tokens that are not steered are treated as one.
    order = steering.abs().masked_fill(some, torch.inf).topk(int(some.sum(-1).max())).indices
    rest = torch.log1p(-torch.gather(logprobs, 1, order).exp().sum(-1, keepdim=True).clamp(max=1 - 1e-6))
    short = torch.cat([logprobs.gather(1, order), rest], dim=-1)
    push = torch.cat([steering.gather(1, order), torch.zeros_like(rest)], dim=-1)
    fused, few = advantage(rewards, logprobs.exp(), sigma), slice(most // 4)
    return HeadCalibration(
        sigma,
        CLIP,
        betas={b: round(strength(short, push, b), 4) for b in BUDGETS},
        fused_betas={b: round(strength(logprobs[few], fused[few], b), 4) for b in BUDGETS},
    )


@torch.inference_mode()
def calibrate_scores(rewards: Tensor, logprobs: Tensor) -> HeadCalibration:
    """The same for a reward model that steers as RAD does: with clamped rewards, on the likeliest tokens alone.

    Args:
        rewards, logprobs: of the likeliest tokens after every prefix, `(N, k)`.
    """
    rewards, logprobs = rewards.clamp(0, 1), torch.log_softmax(logprobs, dim=-1)
    probs = logprobs.exp()
    sigma = max(float(advantage(rewards, probs).square().mean().sqrt()), 1e-8)
    push = advantage(rewards, probs, sigma)
    # RAD clips rewards to [0, 1] and does not clip advantages: with this clip, none is clipped.
    return HeadCalibration(
        sigma, 1 / sigma, {b: round(strength(logprobs, push, b), 4) for b in BUDGETS}, fused_betas={}
    )


def strength(logprobs: Tensor, bias: Tensor, budget: float, both: bool = True, highest: float = 64.0) -> float:
    """The factor on a bias at which the mean divergence of all rows reaches a budget, by bisection; at most `highest`.

    Args:
        logprobs, bias: `(N, V)`.
        budget: nats.
        both: take the mean over the bias and its opposite.
    """
    low, high = 0.0, highest
    for _ in range(24):
        middle = (low + high) / 2
        moved = divergence(logprobs, bias, middle).mean()
        if both:
            moved = (moved + divergence(logprobs, -bias, middle).mean()) / 2
        low, high = (middle, high) if moved <= budget else (low, middle)
    return low


def fidelity(head: RewardHead, samples: PrefixSamples, embedding: Tensor) -> dict[str, float]:
    """How well a head follows a reward model's scores of the `LIKELY` likeliest tokens.

    Returns:
        shares of explained variance: of all scores (`r2`), of each prefix's mean score, which a thermometer shows
        (`level_r2`), and of the differences from that mean, which steer (`centred_r2`); the correlation of these
        differences; and the share of prefixes where both have the same best token.
    """
    states = samples.states.float()
    tokens = samples.candidates[:, :LIKELY]
    with torch.inference_mode():
        ours = head.rewards(head.state(states), embedding[tokens])
    theirs = samples.rewards[:, :LIKELY]
    ours_centred, theirs_centred = centred(ours), centred(theirs)
    level = theirs.mean()
    norms = (ours_centred.norm() * theirs_centred.norm()).clamp(min=1e-12)
    correlation = float((ours_centred * theirs_centred).sum() / norms)
    figures = {
        "r2": explained(ours - level, theirs - level),
        "level_r2": explained(ours.mean(-1) - level, theirs.mean(-1) - level),
        "centred_r2": explained(ours_centred, theirs_centred),
        "centred_correlation": correlation,
        "argmax_agreement": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def explained(ours: Tensor, theirs: Tensor) -> float:
    """The share of the sum of squares of `theirs` that `ours` explains."""
    return float(1 - (ours - theirs).square().sum() / theirs.square().sum())
