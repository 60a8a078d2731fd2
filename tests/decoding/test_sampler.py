"""The sampler: truncation keeps the right tokens, and draws follow the distribution, alone and in any batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.decoding.sampler import Sampler, noise, warp
from mixer.errors import InvalidValue
from mixer.values.sampling import SamplingParams

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
    # float32 can hardly tell some tokens apart; then either one may stay.
    assert max(x for x, w in zip(logits, warped.tolist(), strict=True) if w > -math.inf) >= max(logits) - 1e-5


@given(logits_lists, st.integers(1, 50))
def test_top_k_leaves_the_k_likeliest_tokens(logits, top_k):
    kept = warp(torch.tensor(logits), SamplingParams(temperature=1, top_p=1, top_k=top_k)) > -math.inf
    assert int(kept.sum()) == min(top_k, len(logits))
    # float32 can hardly tell some tokens apart; then either one may stay.
    most_left_out = max([x for x, k in zip(logits, kept, strict=True) if not k], default=-math.inf)
    assert min(x for x, k in zip(logits, kept, strict=True) if k) >= most_left_out - 1e-5


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert (warp(logits, SamplingParams(temperature=1, top_p=0.79)) > -math.inf).tolist() == [True, True, False, False]
    assert (warp(logits, SamplingParams(temperature=1, top_p=0.81)) > -math.inf).tolist() == [True, True, True, False]


def test_no_truncation_and_temperature_one_is_the_model_s_own_distribution():
    logits = torch.randn(50)
    assert torch.allclose(
        warp(logits, SamplingParams(temperature=1, top_p=1)), torch.log_softmax(logits, -1), atol=1e-6
    )


any_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 5, 40, 900]),
    top_p=st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 1e-6, 0.05, 1.0]),
)


@given(st.lists(any_params, min_size=1, max_size=5), st.integers(0, 2**63 - 1), st.integers(0, 5000), st.floats(0.1, 9))
def test_a_sampler_takes_the_largest_sum_of_warped_log_probability_and_noise(params, seed, step, spread):
    generator = torch.Generator().manual_seed(seed % 2**31)
    logits = spread * torch.randn(len(params), 700, generator=generator)
    tokens, logprobs = Sampler(params, ())(logits.clone(), [seed] * len(params), [step] * len(params))
    ids = torch.arange(700)[None]
    for own, one, token, logprob in zip(logits, params, tokens, logprobs, strict=True):
        sums = warp(own, one) + noise([seed], [step], ids)[0]
        # At the edge of what is kept, rounding may keep a token or cut it off.
        assert sums[token] >= sums.max() - 1e-5 or edge(own, one)
        assert logprob == pytest.approx(float(torch.log_softmax(own, -1)[token]), abs=1e-4)


def edge(logits: torch.Tensor, params: SamplingParams) -> bool:
    """Whether a slightly different threshold would keep other tokens."""
    kept = []
    for nudge in (-1e-5, 1e-5):
        top_p = min(max(params.top_p + nudge, 0.0), 1.0) if 0 < params.top_p < 1 else params.top_p
        min_p = min(params.min_p * (1 + nudge), 1.0)
        kept.append(warp(logits, replace(params, top_p=top_p, min_p=min_p)).isfinite())
    return not torch.equal(*kept)


def test_draws_follow_the_distribution():
    probs, rows = torch.tensor([0.6, 0.3, 0.1, 0.0]), 20_000
    sampler = Sampler([SamplingParams(temperature=1, top_p=1)] * rows, ())
    tokens, _ = sampler(probs.log().expand(rows, 4).clone(), range(rows), [0] * rows)
    shares = torch.bincount(torch.tensor(tokens), minlength=4) / rows
    assert shares[3] == 0
    # Four standard deviations of a multinomial count.
    assert torch.all((shares - probs).abs() < 4 * (probs * (1 - probs) / rows).sqrt() + 1e-6)


def test_noise_is_gumbel_s_and_differs_by_seed_step_and_token():
    values = noise(range(50), [3] * 50, torch.arange(2000).expand(50, -1))
    assert values.mean() == pytest.approx(0.57722, abs=0.02) and values.var() == pytest.approx(math.pi**2 / 6, abs=0.05)
    assert values.unique().numel() > 0.99 * values.numel()
    assert abs(float(torch.corrcoef(values[:2])[0, 1])) < 0.1
    steps = noise([7] * 2, [0, 1], torch.arange(2000).expand(2, -1))
    assert abs(float(torch.corrcoef(steps)[0, 1])) < 0.1


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_one_seed_gives_one_draw_and_near_distributions_share_it(seed):
    logits = torch.randn(1, 100, generator=torch.Generator().manual_seed(seed))
    sampler = Sampler([SamplingParams()], ())
    same, near = (sampler(x.clone(), [seed], [4])[0] for x in (logits, logits + 1e-6))
    assert same == sampler(logits.clone(), [seed], [4])[0] == near


def test_a_token_that_ends_the_text_is_not_drawn_before_it_may_be():
    logits = torch.tensor([[9.0, 1.0, 0.0], [9.0, 1.0, 0.0]])
    sampler = Sampler([SamplingParams(temperature=0)] * 2, ends=[0])
    tokens, logprobs = sampler(logits.clone(), [1, 1], [0, 0], may_end=[False, True])
    assert tokens == [1, 0]
    assert logprobs[0] == pytest.approx(float(torch.log_softmax(logits[0], -1)[1]), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_token_that_ends_the_text_may_be_drawn_where_no_other_is_left(temperature: float):
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf]])
    sampler = Sampler([SamplingParams(temperature=temperature)], ends=[1])
    assert sampler(logits, [1], [0], may_end=[False]) == ([1], [0.0])


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
        {"seed": -2},
        {"min_new_tokens": 200},
        {"stop": [""]},
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options):
    with pytest.raises(InvalidValue, match="stop" if "stop" in options else next(iter(options))):
        SamplingParams(**options)
