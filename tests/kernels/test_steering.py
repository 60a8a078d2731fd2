"""The compiled steering does what `mixer.rewards.heads` defines."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixer.kernels.steering import CLOSE, limit_to_budget
from mixer.rewards.reference import budget_share, divergence

seeds = st.integers(0, 2**31 - 1)


def drawn(seed: int, count: int, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def spend(logits: torch.Tensor, bias: torch.Tensor, budget: float, some: int, cut: bool = False) -> tuple:
    """The first `some` tokens steered; log-probabilities after it, and the nats."""
    logprobs = torch.log_softmax(logits, -1)[:some]
    tokens = torch.arange(some)
    own = (tokens.numpy(), logprobs.numpy(), bias[:some].numpy())
    after, nats = limit_to_budget(logits.numpy(), logits.numpy(), False, 1.0, *own, budget, cut)
    return torch.log_softmax(torch.from_numpy(after), -1), nats


@given(
    seeds, st.integers(1, 200), st.floats(0.1, 1), st.floats(0, 5), st.sampled_from([0.01, 1.0, 30.0]), st.booleans()
)
def test_a_share_fills_its_budget_and_never_exceeds_it(
    seed: int, count: int, part: float, budget: float, spread: float, cut: bool
):
    some = max(1, round(part * count))
    logits, bias = drawn(seed, count), drawn(seed + 1, count, spread)
    bias[some:] = 0
    before = torch.log_softmax(logits.masked_fill(torch.arange(count) >= some, -torch.inf) if cut else logits, -1)
    after, nats = spend(logits, bias, budget, some, cut)
    true = float(divergence(before, torch.where(before > -torch.inf, after.double() - before, 0.0)))
    assert abs(true - nats) < 1e-5 + 1e-4 * nats
    assert nats <= budget
    share = float(budget_share(before, bias, budget))
    assert (share == 1 or nats >= budget * (1 - 2 * CLOSE) - 1e-5) or float(divergence(before, bias)) <= budget + 1e-4
    expected = torch.log_softmax(before + share * bias, -1)
    assert torch.allclose(after.exp(), expected.exp().float(), atol=2e-3) or budget < 1e-3


@given(seeds, st.integers(1, 200), st.floats(0, 5), st.sampled_from([0.1, 1.0, 10.0]), st.sampled_from([0.5, 1.0, 2.0]))
def test_what_steered_already_shares_the_budget(seed: int, count: int, budget: float, spread: float, heat: float):
    origin, bias = drawn(seed, count), drawn(seed + 2, count)
    logits = origin + drawn(seed + 1, count, spread)
    tokens, none = np.arange(count), np.zeros(count, np.float32)
    after, nats = limit_to_budget(logits.numpy(), origin.numpy(), True, heat, tokens, none, bias.numpy(), budget, False)
    before, found = (torch.log_softmax(one / heat, -1) for one in (origin, torch.from_numpy(after)))
    whole = torch.log_softmax(logits / heat + bias, -1)
    assert nats <= budget and abs(float(divergence(before, found.double() - before)) - nats) < 1e-4 + 1e-4 * nats
    expected = torch.log_softmax(before + float(budget_share(before, whole - before, budget)) * (whole - before), -1)
    assert torch.allclose(found.exp(), expected.exp().float(), atol=2e-3) or budget < 1e-3


def test_a_budget_of_nothing_and_none_at_all():
    logits, bias = drawn(1, 9), drawn(2, 9)
    assert torch.allclose(spend(logits, bias, 0.0, 9)[0], torch.log_softmax(logits, -1), atol=1e-3)
    assert torch.allclose(spend(logits, bias, np.inf, 9)[0], torch.log_softmax(logits + bias, -1), atol=1e-5)


def test_what_is_cut_off_cannot_be_half_cut_off():
    origin, none = np.zeros(4, np.float32), np.zeros(0, np.float32)
    logits = np.array([0, 0, 0, -np.inf], np.float32)
    whole, nats = limit_to_budget(logits, origin, True, 1.0, np.zeros(0, np.int64), none, none, 1.0, False)
    assert np.isneginf(whole[3]) and abs(nats - np.log(4 / 3)) < 1e-6
    kept, nats = limit_to_budget(logits, origin, True, 1.0, np.zeros(0, np.int64), none, none, 0.1, False)
    assert kept.tolist() == origin.tolist() and nats == 0
