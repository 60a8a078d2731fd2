from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.errors import InvalidValue
from mixer.params import SamplingParams
from mixer.sampling import draw, warp

logits_lists = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40)


@given(
    logits_lists,
    st.floats(0, 3),
    st.integers(0, 50),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_warped_distribution_is_normalized_and_keeps_the_likeliest(logits, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    warped = warp(torch.tensor(logits), params)
    assert math.isclose(float(warped.exp().sum()), 1, abs_tol=1e-4)
    # Of two tokens that float32 can hardly tell apart, either may be the one that stays.
    assert max(x for x, w in zip(logits, warped.tolist(), strict=True) if w > -math.inf) >= max(logits) - 1e-5


@given(logits_lists, st.integers(1, 50))
def test_top_k_leaves_k_tokens_or_ties(logits, top_k):
    kept = warp(torch.tensor(logits), SamplingParams(temperature=1, top_p=1, top_k=top_k)) > -math.inf
    assert int(kept.sum()) >= min(top_k, len(logits))
    assert min(x for x, k in zip(logits, kept, strict=True) if k) >= max(
        [x for x, k in zip(logits, kept, strict=True) if not k], default=-math.inf
    )


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert (warp(logits, SamplingParams(temperature=1, top_p=0.79)) > -math.inf).tolist() == [True, True, False, False]
    assert (warp(logits, SamplingParams(temperature=1, top_p=0.81)) > -math.inf).tolist() == [True, True, True, False]


def test_no_truncation_and_temperature_one_is_the_model_s_own_distribution():
    logits = torch.randn(50)
    assert torch.allclose(
        warp(logits, SamplingParams(temperature=1, top_p=1)), torch.log_softmax(logits, -1), atol=1e-6
    )


def test_draws_follow_the_distribution():
    probs = torch.tensor([0.6, 0.3, 0.1, 0.0])
    generator = torch.Generator().manual_seed(3)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[draw(probs.log(), generator)] += 1
    assert counts[3] == 0
    # Four standard deviations of a multinomial count.
    assert torch.all((counts / 4000 - probs).abs() < 4 * (probs * (1 - probs) / 4000).sqrt() + 1e-6)


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_one_seed_gives_one_draw_and_near_distributions_share_it(seed):
    logprobs = torch.log_softmax(torch.randn(100, generator=torch.Generator().manual_seed(seed)), -1)
    nudged = torch.log_softmax(logprobs + 1e-6 * torch.randn(100), -1)
    same, near = (draw(x, torch.Generator().manual_seed(seed)) for x in (logprobs, nudged))
    assert same == draw(logprobs, torch.Generator().manual_seed(seed))
    assert near == same


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": math.nan},
        {"temperature": -1},
        {"temperature": "warm"},
        {"top_p": 1.5},
        {"top_k": 2.5},
        {"max_new_tokens": 0},
        {"max_new_tokens": True},
        {"seed": -1},
        {"min_new_tokens": 200},
        {"stop": [""]},
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(InvalidValue, match="stop" if "stop" in options else next(iter(options))):
        SamplingParams(**options)
