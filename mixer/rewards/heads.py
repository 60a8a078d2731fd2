"""Reward heads: what each next token is worth for an attribute, from one hidden state, in one product for all tokens.

    r(v | x) = <h, w> + b + <W h, e(v)>        W = up @ down, of rank r; e(v) the model's frozen output embedding

The first part is the same for all tokens: a thermometer that cannot change a softmax. The second one steers. Since the
base's logits are <h, e(v)> too, the heads of many sliders become one matrix: <(I + sum_a beta_a W_a) h, e(v)>. Pure
functions of tensors. Knows nothing of models, files, sessions or how a head is trained.

Source: Troshin, Niculae and Fokkens, "On the Low-Rank Parametrization of Reward Models for Controlled Language
Generation", arXiv 2407.04615; the steering follows Deng and Raffel, "Reward-Augmented Decoding", arXiv 2310.09520.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HALVINGS = 40  # of kappa's interval, which is 1 wide


@dataclass(frozen=True)
class Trunk:
    """A small network that makes a head's state out of those of all layers.

    Attributes:
        mix: share of each layer's state, `(S,)`: the embedding, the output of every layer, and the final state.
        inner: `(M, D)`, and outer: `(D, M)`: one hidden layer on top, which is added; None for the mix alone.
    """

    mix: Tensor
    inner: Tensor | None = None
    outer: Tensor | None = None

    def __call__(self, states: Tensor) -> Tensor:
        """The head's state, `(..., D)`, from all states of one position, `(..., S, D)`.

        States of different layers differ in length by orders of magnitude: each is brought to length sqrt(D) first.
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
        trunk: for a head that does not read the model's own final state; such a head cannot be fused.
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
        """What the head reads, `(..., D)`, of all states, `(..., S, D)`: the final one, or what its trunk makes."""
        return states[..., -1, :] if self.trunk is None else self.trunk(states)

    def baseline(self, h: Tensor) -> Tensor:
        """How much of the attribute the text shows so far, `(...)`, from states `(..., D)`."""
        return h @ self.weight + self.bias

    def shift(self, h: Tensor) -> Tensor:
        """`W h`, `(..., D)`: added to the final state, it adds `<W h, e(v)>` to the logits."""
        return (h @ self.down.T) @ self.up.T

    def rewards(self, h: Tensor, embedding: Tensor) -> Tensor:
        """`r(v | x)` of the tokens whose output embeddings are given.

        Args:
            h: states, `(..., D)`.
            embedding: of all tokens or some, the same for all states, `(V, D)`, or each state's own, `(..., k, D)`.

        Returns:
            `(..., V)` or `(..., k)`.
        """
        return (embedding @ self.shift(h)[..., None])[..., 0] + self.baseline(h)[..., None]


@dataclass(frozen=True)
class HeadCalibration:
    """What makes heads comparable, measured on held-out prefixes.

    Attributes:
        sigma: root mean square of `r - E_p[r]` over likely tokens.
        clip: of advantages, in units of sigma.
        betas: by budget: nats for an advantage of 1 at which the mean of `KL(p' || p)` over prefixes and both
            directions reaches the budget, on likely tokens, with the clip.
        fused_betas: the same for a head that is fused: on all tokens, without a clip.
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
        """What `fused_matrix` takes for a slider at `position`, -1 to 1, where 1 spends a calibrated budget."""
        return position * self.calibration.fused_betas[budget] / self.calibration.sigma


def fused_matrix(heads: Sequence[RewardHead], strengths: Sequence[float], like: Tensor | None = None) -> Tensor:
    """`I + sum_a beta_a W_a`, `(D, D)`: logits of this matrix times h are the base's plus every head's rewards.

    Args:
        strengths: nats for one unit of reward, `(N,)`; heads at 0 are left out, whatever their numbers.
        like: its size, dtype and device are the result's; the first head's `weight` if None.
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
    """How much better than the model's own choice each token is: `clip((D - E_p[D]) / sigma, -clip, clip)`, `(..., k)`.

    Args:
        rewards: `(..., k)`; a constant added to all of a row changes nothing.
        probs: of the same tokens, `(..., k)`; they need not add up to 1.
        sigma: a deviation of rewards that makes heads comparable, from calibration.
        clip: None leaves the mean under `probs` at 0.
    """
    mean = (rewards * probs).sum(-1, keepdim=True) / probs.sum(-1, keepdim=True)
    values = (rewards - mean) / sigma
    return values if clip is None else values.clamp(-clip, clip)


def likely(logprobs: Tensor, top_k: int = 100, min_p: float = 1e-3) -> Tensor:
    """Which tokens may be steered, `(..., V)` bool: the `top_k` likeliest of at least `min_p` times the largest share.

    To be asked before anything steers: a head knows nothing of tokens that the model would not write.
    """
    most = logprobs.topk(min(top_k, logprobs.shape[-1])).indices
    kept = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, most, True)
    return kept & (logprobs >= logprobs.amax(-1, keepdim=True) + torch.tensor(min_p).log())
