"""Laws of the comparison with RAD: itself is no distance away, scale and baseline do not count, ranks are ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.steering_study.fidelity import (
    BUDGETS,
    TOKENS,
    FidelityReport,
    compare,
    compare_head,
    energy_rank,
    reward_matrix,
    spectrum,
)
from mixer.rewards.heads import RewardHead
from mixer.training.prefix_samples import LIKELY
from mixer.training.reward_model import new_teacher
from tests.factory import make_base
from tests.training.test_reward_head import EMBEDDING, HEAD, D, samples


@settings(max_examples=10)
@given(st.integers(0, 100), st.floats(0.1, 5), st.floats(-3, 3))
def test_an_arm_that_ranks_as_rad_does_is_rad(seed: int, scale: float, constant: float):
    own = samples(seed, 60)
    own = replace(own, rewards=(0.5 + 0.02 * own.rewards).clamp(0.01, 0.99))
    method = compare("itself", own, scale * own.rewards[:, :LIKELY] + constant, {})
    assert max(method.divergence) < 1e-4 and method.agreement > 0.97
    other = compare("random", own, torch.randn(60, LIKELY), {})
    assert min(other.divergence) > 0.02 and other.agreement < method.agreement


def test_no_steering_is_the_budget_away_at_least():
    own = samples(3, 80)
    method = compare("base", own, None, {})
    # KL the other way around than the budget is counted here: the same to first order.
    assert all(0.3 * b < gap < 3 * b for gap, b in zip(method.divergence, BUDGETS, strict=True))


def test_the_head_itself_explains_its_rewards():
    method = compare_head("itself", HEAD, samples(4, 80), EMBEDDING)
    assert method.r2 > 0.99 and method.centred_r2 > 0.99
    none = RewardHead(torch.zeros(1, D), torch.zeros(D, 1), torch.zeros(D))
    assert compare_head("none", none, samples(4, 80), EMBEDDING).centred_r2 == pytest.approx(0)


@given(st.integers(1, 5))
def test_the_rank_of_a_matrix(rank: int):
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.linalg.qr(torch.randn(30, rank, generator=generator))[0] for _ in range(2))
    assert energy_rank(left @ right.T, 0.999) == rank and energy_rank(left @ right.T, 0.5) <= rank


def test_the_spectrum_of_a_reward_model(tmp_path: Path):
    teacher, _, _ = new_teacher(make_base(tmp_path / "base"))
    teacher.backbone.float()
    teacher.weight.data.normal_()
    texts = [[0, *range(i, i + 9)] for i in range(1, 13)]
    matrix = reward_matrix(teacher, texts, torch.arange(5))
    alone = teacher(torch.tensor([[*texts[2], 3]]))[0, -1].detach()
    assert matrix.shape == (12, 5) and float(matrix[2, 3]) == pytest.approx(float(alone), abs=1e-4)
    found = spectrum(teacher, texts)
    assert (found.prefixes, found.tokens) == (12, min(TOKENS, 21))
    assert 1 <= found.centred[0] <= found.centred[1] <= 12 and found.raw[0] <= found.raw[1]
    method = compare("RAD", samples(1, 20), None, {})
    table = FidelityReport("humor", 20, found, (method,)).table()
    assert "| RAD |" in table and f"in {found.raw[0]}, {found.raw[1]} dimensions" in table
