"""Steering by rewards in plain torch. This is the reference that the compiled kernels are tested against.

Training and benchmarks use it too, because they steer whole batches of distributions at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixer.rewards.heads import likely

HALVINGS = 40  # steps of the bisection for kappa, which lies in [0, 1]


def divergence(logprobs: Tensor, bias: Tensor, kappa: Tensor | float = 1.0) -> Tensor:
    """`KL(p' || p)` in nats, `(...)` float64, of `p' = softmax(log p + kappa bias)`.

    Args:
        logprobs: `(..., V)`; they need not be normalized.
        bias: `(..., V)`.
        kappa: `(...)` or a number.
    """
    logprobs, scaled = logprobs.double(), bias.double() * torch.as_tensor(kappa).double()[..., None]
    steered = logprobs + scaled
    total = steered.logsumexp(-1, keepdim=True)
    probs = (steered - total).exp()
    # A token of log-probability -inf contributes 0.
    parts = torch.where(probs > 0, probs * (scaled - total + logprobs.logsumexp(-1, keepdim=True)), 0.0)
    return parts.sum(-1).clamp(min=0)


def budget_share(logprobs: Tensor, bias: Tensor, budget: float) -> Tensor:
    """kappa: the largest factor in [0, 1] with `KL(p' || p) <= budget`, `(...)` float64; see `divergence`.

    The divergence grows with kappa, so bisection finds it. The result never exceeds the budget.

    Args:
        logprobs: the model's own, `(..., V)`.
        bias: added to them, `(..., V)`; finite.
        budget: most nats for `KL(p' || p)`, 0 or more.
    """
    all_fits = divergence(logprobs, bias) <= budget
    low, high = torch.zeros(all_fits.shape, dtype=torch.float64), torch.ones(all_fits.shape, dtype=torch.float64)
    low, high = low.to(logprobs.device), high.to(logprobs.device)
    if not bool(all_fits.all()):
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = divergence(logprobs, bias, middle) <= budget
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(all_fits, 1.0, low)


def steer_logprobs(
    logprobs: Tensor, bias: Tensor, budget: float = torch.inf, top_k: int = 100, min_p: float = 1e-3, cut: bool = False
) -> Tensor:
    """Log-probabilities `(..., V)` with a bias on the likely tokens, at most `budget` nats away.

    A row whose bias is 0 on all likely tokens comes back bit for bit, unless `cut` is set.

    Args:
        logprobs: normalized, after temperature, `(..., V)` float32.
        bias: `(..., V)`: `sum_a s_a beta_a A_a`, plus any other bias that shares the budget.
        top_k, min_p: see `likely`.
        cut: make all other tokens impossible, as RAD does. The budget then counts from the distribution over the
            likely tokens. If not set, the other tokens keep their logits.
    """
    mask = likely(logprobs, top_k, min_p)
    bias = torch.where(mask, bias, 0.0)
    before = torch.log_softmax(logprobs.masked_fill(~mask, -torch.inf), dim=-1) if cut else logprobs
    kappa = budget_share(before, bias, budget).to(bias)
    steered = torch.log_softmax(before + kappa[..., None] * bias, dim=-1)
    return steered if cut else torch.where((bias == 0).all(-1, keepdim=True), logprobs, steered)
