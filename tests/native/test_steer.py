"""The compiled steering does what `mixer.rewards` defines."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.native.steer import CLOSE, spend
from mixer.rewards import divergence, kappa

seeds = st.integers(0, 2**31 - 1)


def drawn(seed: int, count: int, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(count, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(
    seeds,
    st.integers(1, 200),
    st.sampled_from([0.0, 0.2, 0.9]),
    st.floats(0, 5),
    st.sampled_from([0.01, 1.0, 30.0]),
)
def test_a_share_fills_its_budget_and_never_exceeds_it(
    seed: int, count: int, rest: float, budget: float, spread: float
):
    logprobs = torch.log_softmax(drawn(seed, count), -1) + np.log(1 - rest)
    push = drawn(seed + 1, count, spread)
    share, nats = spend(logprobs.numpy(), push.numpy(), rest, budget)
    others = torch.tensor([rest]).log() if rest else torch.zeros(0)
    whole, pushed = torch.cat([logprobs, others]), torch.cat([push, torch.zeros(len(others))])
    true = float(divergence(whole, pushed, share))
    assert 0 <= share <= 1 and abs(true - nats) < 1e-5 + 1e-5 * nats
    assert true <= budget + 1e-5 + 1e-5 * budget
    assert share == 1 or true >= budget * (1 - 2 * CLOSE) - 1e-5
    assert abs(share - float(kappa(whole, pushed, budget))) < 1e-3 or true >= budget * (1 - 2 * CLOSE) - 1e-5


def test_a_budget_of_nothing_and_none_at_all():
    logprobs, push = torch.log_softmax(drawn(1, 9), -1).numpy(), drawn(2, 9).numpy()
    assert spend(logprobs, push, 0.0, 0.0)[0] < 1e-3
    assert spend(logprobs, push, 0.0, np.inf)[0] == 1


def test_what_is_cut_off_cannot_be_half_cut_off():
    logprobs, push = torch.log_softmax(torch.zeros(4), -1).numpy(), np.array([0, 0, 0, -np.inf], np.float32)
    share, nats = spend(logprobs, push, 0.0, 1.0)
    assert share == 1 and abs(nats - np.log(4 / 3)) < 1e-6
    assert spend(logprobs, push, 0.0, 0.1) == (0.0, 0.0)
