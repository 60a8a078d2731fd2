"""Steering by rewards in plain torch, as defined: the reference that the compiled kernels are tested against.

Training and studies use it too, since there whole batches of distributions are steered at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixer.rewards.heads import HALVINGS, likely


def divergence(logprobs: Tensor, bias: Tensor, budget_share: Tensor | float = 1.0) -> Tensor:
    """`KL(p' || p)` in nats, `(...)` float64, of `p' = softmax(log p + kappa bias)`; both `(..., V)`."""
    logprobs, push = logprobs.double(), bias.double() * torch.as_tensor(budget_share).double()[..., None]
    steered = logprobs + push
    total = steered.logsumexp(-1, keepdim=True)
    share = (steered - total).exp()
    # Of a token that is cut off, neither share nor push counts.
    moved = torch.where(share > 0, share * (push - total + logprobs.logsumexp(-1, keepdim=True)), 0.0)
    return moved.sum(-1).clamp(min=0)


def budget_share(logprobs: Tensor, bias: Tensor, budget: float) -> Tensor:
    """The largest share of a bias, in [0, 1], that moves the distribution by at most `budget` nats; `(...)` float64.

    The divergence grows with kappa, so halving finds it; what is returned respects the budget and never exceeds it.

    Args:
        logprobs: the model's own, `(..., V)`.
        bias: what is to be added, `(..., V)`; finite.
        budget: most nats for `KL(p' || p)`, 0 or more.
    """
    whole = divergence(logprobs, bias) <= budget
    low, high = torch.zeros(whole.shape, dtype=torch.float64), torch.ones(whole.shape, dtype=torch.float64)
    low, high = low.to(logprobs.device), high.to(logprobs.device)
    if not bool(whole.all()):
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = divergence(logprobs, bias, middle) <= budget
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(whole, 1.0, low)


def steer_logprobs(
    logprobs: Tensor, bias: Tensor, budget: float = torch.inf, top_k: int = 100, min_p: float = 1e-3, cut: bool = False
) -> Tensor:
    """Log-probabilities `(..., V)` with a bias on the likely tokens, at most `budget` nats away.

    A row whose bias is 0 on all likely tokens comes back bit for bit, unless the others are cut.

    Args:
        logprobs: normalized, after temperature, `(..., V)` float32.
        bias: `(..., V)`: `sum_a s_a beta_a A_a`, plus whatever else steers, so that all share one budget.
        cut: leave out all other tokens, as RAD does; the budget then counts from the likely ones alone. Otherwise they
            keep their logits.
    """
    some = likely(logprobs, top_k, min_p)
    bias = torch.where(some, bias, 0.0)
    before = torch.log_softmax(logprobs.masked_fill(~some, -torch.inf), dim=-1) if cut else logprobs
    share = budget_share(before, bias, budget).to(bias)
    steered = torch.log_softmax(before + share[..., None] * bias, dim=-1)
    return steered if cut else torch.where((bias == 0).all(-1, keepdim=True), logprobs, steered)
