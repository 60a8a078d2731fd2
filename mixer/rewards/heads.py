"""Reward heads: one hidden state gives the rewards of all next tokens for an attribute.

    r(v | x) = <h, w> + b + <W h, e(v)>        W = up @ down, of rank r; e(v) the model's frozen output embedding

The first part, the baseline, is the same for all tokens. It cannot change a softmax. It says how much of the attribute
the text shows. The second part steers. The base's logits are <h, e(v)> too, so many heads can be fused into one matrix:
<(I + sum_a beta_a W_a) h, e(v)>. This module has pure functions of tensors. It knows nothing of models, files, sessions
or training.

Source: Troshin, Niculae and Fokkens, "On the Low-Rank Parametrization of Reward Models for Controlled Language
Generation", arXiv 2407.04615. The steering follows Deng and Raffel, "Reward-Augmented Decoding", arXiv 2310.09520.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trunk:
    """A small network that computes a head's state from the states of all layers.

    Attributes:
        mix: weight of each state, `(S,)`: the embedding, the output of every layer, and the final state.
        inner: `(M, D)`, and outer: `(D, M)`, one hidden layer whose output is added; None for the mix alone.
    """

    mix: Tensor
    inner: Tensor | None = None
    outer: Tensor | None = None

    def __call__(self, states: Tensor) -> Tensor:
        """The head's state, `(..., D)`, from all states of one token, `(..., S, D)`.

        States of different layers differ in length by orders of magnitude, so each is scaled to length sqrt(D) first.
        """
        normed = states * states.square().mean(-1, keepdim=True).clamp(min=1e-12).rsqrt()
        mixed = (normed * self.mix[:, None]).sum(-2)
        if self.inner is None or self.outer is None:
            return mixed
        return mixed + torch.nn.functional.gelu(mixed @ self.inner.T) @ self.outer.T


@dataclass(frozen=True)
class RewardHead:
    """A low-rank autoregressive reward model; D is the hidden size, r its rank.

    Attributes:
        down: `(r, D)`, and up: `(D, r)`.
        weight: of the baseline, `(D,)`.
        bias: of the baseline.
        trunk: computes the head's state if the head does not read the model's final state. Such a head cannot be fused.
    """

    down: Tensor
    up: Tensor
    weight: Tensor
    bias: float = 0.0
    trunk: Trunk | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def state(self, states: Tensor) -> Tensor:
        """The state that the head reads, `(..., D)`, from all states, `(..., S, D)`: the final one or the trunk's."""
        return states[..., -1, :] if self.trunk is None else self.trunk(states)

    def baseline(self, h: Tensor) -> Tensor:
        """How much of the attribute the text shows so far, `(...)`, from states `(..., D)`."""
        return h @ self.weight + self.bias

    def shift(self, h: Tensor) -> Tensor:
        """`W h`, `(..., D)`. Added to the final state, it adds `<W h, e(v)>` to the logits."""
        return (h @ self.down.T) @ self.up.T

    def rewards(self, h: Tensor, embedding: Tensor) -> Tensor:
        """`r(v | x)` of the tokens whose output embeddings are given.

        Args:
            h: states, `(..., D)`.
            embedding: `(V, D)`, the same tokens for all states, or `(..., k, D)`, other tokens for each state.

        Returns:
            `(..., V)` or `(..., k)`.
        """
        return (embedding @ self.shift(h)[..., None])[..., 0] + self.baseline(h)[..., None]


@dataclass(frozen=True)
class HeadCalibration:
    """The scales that make heads comparable, measured on held-out prefixes.

    Attributes:
        sigma: root mean square of `r - E_p[r]` over likely tokens.
        clip: largest size of an advantage, in units of sigma.
        betas: by budget, in nats: the bias for an advantage of 1. With this bias on likely tokens, the mean of
            `KL(p' || p)` over prefixes and both directions equals the budget.
        fused_betas: the same for a fused head, which acts on all tokens and without a clip.
    """

    sigma: float
    clip: float
    betas: Mapping[float, float]
    fused_betas: Mapping[float, float]


@dataclass(frozen=True)
class Reward:
    """A reward head with its name and its calibration."""

    attribute: str
    head: RewardHead
    calibration: HeadCalibration

    def fused_strength(self, position: float, budget: float) -> float:
        """The strength that `fused_matrix` takes for a slider at `position`; at 1 the mean divergence is `budget`."""
        return position * self.calibration.fused_betas[budget] / self.calibration.sigma


def fused_matrix(heads: Sequence[RewardHead], strengths: Sequence[float], like: Tensor | None = None) -> Tensor:
    """`I + sum_a beta_a W_a`, `(D, D)`. This matrix times h has the base's logits plus every head's scaled rewards.

    Args:
        strengths: nats for one unit of reward, `(N,)`. Heads of strength 0 are left out, even if they hold NaN.
        like: a tensor with the size, dtype and device of the result; the first head's `weight` if None.

    Raises:
        ValueError: a head with a trunk has a strength other than 0.
    """
    like = heads[0].weight if like is None else like
    matrix = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    for head, strength in zip(heads, strengths, strict=True):
        if strength and head.trunk is not None:
            raise ValueError("a head with a trunk reads another state than the logits do and cannot be fused")
        if strength:
            matrix += strength * (head.up @ head.down).to(matrix)
    return matrix


def advantage(rewards: Tensor, probs: Tensor, sigma: float = 1.0, clip: float | None = None) -> Tensor:
    """How much each reward exceeds the mean reward: `clip((r - E_p[r]) / sigma, -clip, clip)`, `(..., k)`.

    Args:
        rewards: `(..., k)`. A constant added to a whole row changes nothing.
        probs: probabilities of the same tokens, `(..., k)`; they need not add up to 1.
        sigma: the calibrated deviation of rewards, which makes heads comparable.
        clip: None for no clip; the mean under `probs` is then 0.
    """
    mean = (rewards * probs).sum(-1, keepdim=True) / probs.sum(-1, keepdim=True)
    values = (rewards - mean) / sigma
    return values if clip is None else values.clamp(-clip, clip)


def likely(logprobs: Tensor, top_k: int = 100, min_p: float = 1e-3) -> Tensor:
    """Which tokens may be steered, `(..., V)` bool: the `top_k` likeliest of at least `min_p` times the largest
    probability.

    Call it on log-probabilities before steering: a head was not trained on tokens that the model would not write.
    """
    most = logprobs.topk(min(top_k, logprobs.shape[-1])).indices
    kept = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, most, True)
    return kept & (logprobs >= logprobs.amax(-1, keepdim=True) + torch.tensor(min_p).log())
