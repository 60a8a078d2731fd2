"""Bias and penalties: each agrees with its definition, neutral ones change nothing, and no text depends on guesses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from mixer import Desk, SamplingParams, Steering
from mixer.decoding.penalties import (
    WINDOW,
    Breakers,
    Penalties,
    as_array,
    dry_lengths,
    dry_penalty,
    penalties,
    token_biases,
)
from mixer.errors import InvalidValue
from tests.factory import byte_tokenizer
from tests.model.parts import batch_exact

V = 12
BYTES = byte_tokenizer().backend_tokenizer
LETTERS = "abcdefghij:\n"  # the texts of the tokens 0 to 11
tokens = st.lists(st.integers(0, V - 1), max_size=40)
few = st.lists(st.integers(0, 3), max_size=60)  # which repeat often
seeds = st.integers(0, 1000)
PROMPT = "Nurse Abeni unfolded the map of the map"
STRONG = {
    "bias": {"logit_bias": {"e": 3, "n": -100, 33: 2.5}},
    "repetition": {"repetition_penalty": 1.7},
    "occurrence": {"presence_penalty": 1.5, "frequency_penalty": 0.7},
    "dry": {"dry_multiplier": 2.0, "dry_allowed_length": 1},
    "all": {
        "logit_bias": {"a": 2},
        "repetition_penalty": 1.2,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.3,
        "dry_multiplier": 1.5,
    },
}


def logits_of(seed: int, size: int = V) -> Tensor:
    return 4 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def ready(prompt: Sequence[int] = (), breakers: Sequence[str] = (), **options: Any) -> Penalties:
    params = SamplingParams(**options)
    return Penalties(params, tuple(prompt), dict(params.biases), letters(breakers))  # type: ignore[arg-type]


def letters(breakers: Sequence[str]) -> Breakers:
    return Breakers(tuple(breakers), lambda token: LETTERS[token])


def naive_dry(ids: Sequence[int], allowed: int, breakers: Sequence[str]) -> dict[int, int]:
    """The definition, in quadratic time: every earlier place is compared with the end, token by token."""
    text = "".join(LETTERS[token] for token in ids)  # one character a token
    ends = {at + len(one) for one in breakers for at in range(len(text)) if text.startswith(one, at)}
    found: dict[int, int] = {}
    for place in range(1, len(ids)):  # of the token that came next there
        length = 0
        while length < place and ids[place - 1 - length] == ids[-1 - length] and len(ids) - length not in ends:
            length += 1
        if length >= allowed and LETTERS[ids[place]] not in breakers:
            found[ids[place]] = max(length, found.get(ids[place], 0))
    return found


@given(seeds, tokens, tokens, st.floats(0.1, 10))
def test_the_repetition_penalty_is_that_of_transformers(seed: int, prompt: list[int], text: list[int], penalty: float):
    logits = logits_of(seed)
    got = ready(prompt, repetition_penalty=penalty)(logits, text)
    ids = torch.tensor([[*prompt, *text]], dtype=torch.int64)
    assert torch.equal(got, RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[None].clone())[0])  # type: ignore[arg-type]


@given(seeds, tokens, tokens, st.floats(-2, 2), st.floats(-2, 2))
def test_presence_and_frequency_count_the_text_and_not_the_prompt(
    seed: int, prompt: list[int], text: list[int], presence: float, frequency: float
):
    logits = logits_of(seed)
    got = ready(prompt, presence_penalty=presence, frequency_penalty=frequency)(logits, text)
    for token in range(V):
        count = text.count(token)
        assert float(got[token]) == pytest.approx(
            float(logits[token]) - presence * (count > 0) - frequency * count, abs=1e-4
        )


@given(few, st.integers(1, 5), st.sampled_from([(), ("b",), ("a", "d"), ("ab",), ("cab", "d")]))
def test_dry_finds_what_the_definition_finds(ids: list[int], allowed: int, breakers: tuple[str, ...]):
    assert dry_lengths(as_array(ids), allowed, letters(breakers)) == naive_dry(ids, allowed, breakers)


@given(seeds, few, few, st.floats(0.1, 5), st.floats(1, 4), st.integers(1, 4))
def test_dry_takes_off_what_the_definition_says(
    seed: int, prompt: list[int], text: list[int], multiplier: float, base: float, allowed: int
):
    options = {"dry_multiplier": multiplier, "dry_base": base, "dry_allowed_length": allowed}
    logits = logits_of(seed)
    expected = logits.double()
    for token, length in naive_dry([*prompt, *text], allowed, ()).items():
        expected[token] -= min(1e30, multiplier * base ** (length - allowed))
    got = ready(prompt, **options)(logits, text).double()
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_dry_stays_finite_and_looks_through_a_window():
    loop = ready(dry_multiplier=100, dry_base=10)(torch.zeros(V), [1] * 5000)
    assert torch.isfinite(loop).all() and loop[1] < -1e29 and not loop[[0, 2]].any()
    far = [1, 2, 3, *[4 + i % 2 for i in range(WINDOW)], 1, 2]
    assert not ready(dry_multiplier=1)(torch.zeros(V), far).any()
    near = far[-WINDOW + 4 :]
    assert ready([1, 2, 3], dry_multiplier=1)(torch.zeros(V), near)[3] == -1
    assert dry_penalty(5, 0.8, 1.0, 2) == 0.8 and dry_penalty(5, 0.8, 2.0, 2) == pytest.approx(6.4)


def test_a_breaker_may_lie_in_a_token_or_span_several():
    pieces = {0: "Alice", 1: ":", 2: "\n\n", 3: " he", 4: "llo", 5: "x"}
    found = Breakers(("\n", "hello"), pieces.__getitem__)
    assert found.unbroken([0, 2, 5, 0], 4) == 2
    assert found.unbroken([5, 3, 4, 5], 4) == 1 and found.unbroken([3, 4, 5, 5], 2) == 2
    assert found.unbroken([3, 4], 1) == 0  # it ends in the last token, and begins before
    assert found.breaks(2) and not found.breaks(3) and not found.breaks(1)
    assert Breakers((), pieces.__getitem__).unbroken([2, 2, 2], 3) == 3


@given(seeds, tokens, st.dictionaries(st.integers(0, V - 1), st.floats(-100, 100)))
def test_a_bias_is_added_to_its_logit(seed: int, text: list[int], biases: dict[int, float]):
    logits = logits_of(seed)
    got = ready(logit_bias=biases)(logits, text)
    for token in range(V):
        assert float(got[token]) == pytest.approx(float(logits[token]) + biases.get(token, 0.0), abs=1e-4)


@given(seeds, tokens, tokens)
def test_what_came_in_is_left_as_it_was(seed: int, prompt: list[int], text: list[int]):
    logits, given_text = logits_of(seed), list(text)
    options: dict[str, Any] = {**STRONG["all"], "logit_bias": {3: 1.0}}
    got = ready(prompt, **options)(logits, text)
    assert torch.equal(logits, logits_of(seed)) and text == given_text
    forbidden = logits.index_fill(0, torch.tensor([2, 3]), -torch.inf)  # as a ban does
    kept = ready(prompt, **options)(forbidden, text)
    assert kept[[2, 3]].tolist() == [-math.inf] * 2 and torch.equal(kept[4:], got[4:])


def test_neutral_penalties_are_none():
    assert penalties(SamplingParams(), [1], BYTES, 260) is None
    idle = SamplingParams(logit_bias={"a": 0}, dry_base=3, dry_allowed_length=9, dry_sequence_breakers=["x"])
    assert penalties(idle, [1], BYTES, 260) is None


def test_a_word_is_its_token_alone_and_after_a_space():
    vocab = {"<unk>": 0, "go": 1, "Ġgo": 2, "stop": 3, "Ġon": 4, "o": 5, "n": 6, "Ġ": 7, "g": 8}
    tokenizer = Tokenizer(models.BPE(vocab, [("g", "o"), ("Ġ", "go")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def read(biases: dict[str | int, float]) -> dict[int, float]:
        return token_biases(SamplingParams(logit_bias=biases).biases, tokenizer, 9)

    assert read({"go": 2}) == {1: 2.0, 2: 2.0} and read({" go": 2}) == {2: 2.0}
    assert read({"2": 1, "go": 2}) == {1: 2.0, 2: 3.0} and read({"go": 0}) == {}
    with pytest.raises(InvalidValue, match=r"'on' of logit_bias is several tokens: .*ids"):
        read({"on": 1})
    with pytest.raises(InvalidValue, match="does not know the word 'z'"):
        read({"z": 1})
    with pytest.raises(InvalidValue, match=r"token 9, which the model does not know\. Give whole numbers below 9"):
        read({9: 1})


@pytest.fixture(scope="module", params=["native", "torch"])
def desk(tiny: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu", native=request.param == "native", auto_fold=False)


def params(length: int = 40, seed: int = 3, **options: Any) -> SamplingParams:
    return SamplingParams(
        **{"max_new_tokens": length, "min_new_tokens": length, "temperature": 0.7, "seed": seed, **options}
    )


def test_a_session_refuses_what_the_model_does_not_know(desk: Desk):
    with pytest.raises(InvalidValue, match="several tokens"):
        desk.session(PROMPT, params=params(logit_bias={"colour": 1}))
    with pytest.raises(InvalidValue, match="does not know"):
        desk.session(PROMPT, params=params(logit_bias={260: 1}))


def test_neutral_values_change_nothing_bit_for_bit(desk: Desk):
    idle: dict[str, Any] = {
        "logit_bias": {"a": 0.0},
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": -0.0,
        "dry_multiplier": 0.0,
        "dry_base": 2.0,
    }
    plain, same = ([*desk.stream(PROMPT, params=params(**options))] for options in ({}, idle))
    assert [one.token_id for one in plain] == [one.token_id for one in same]
    near = 0 if batch_exact(desk.model.backend) else 1e-4  # there the prefix cache alone makes a difference
    assert [one.logprob for one in plain] == pytest.approx([one.logprob for one in same], rel=0, abs=near)


@pytest.mark.parametrize("options", STRONG.values(), ids=STRONG)
def test_every_token_is_drawn_after_exactly_the_tokens_before_it(desk: Desk, options: dict[str, Any]):
    session = desk.session(PROMPT, params=params(**options))
    act, ids = session.penalties, session.prompt_ids
    assert act is not None
    for step in session:
        text = session.token_ids[: step.index]
        logits = act(desk.model.logits([*ids, *text], (0.0,) * len(desk.anchors)), text)
        assert step.logprob == pytest.approx(float(torch.log_softmax(logits, -1)[step.token_id]), abs=2e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("options", STRONG.values(), ids=STRONG)
def test_a_text_is_the_same_with_and_without_guesses_and_in_any_company(
    desk: Desk, options: dict[str, Any], temperature: float
):
    asked = params(temperature=temperature, **options)
    alone = {
        formula: [*desk.session(PROMPT, None, asked, formula=formula, draft="off")]
        for formula in (None, "0.9*base + 0.1*[humor]")
    }
    others = [
        desk.session("Hi", desk.mix(humor=1), params(30, 5)),
        desk.session("Once", None, params(20, **STRONG["all"])),
    ]
    sessions = [
        desk.session(PROMPT, None, asked, formula=formula, draft=draft)
        for formula in alone
        for draft in ("ngram", "base")
    ]
    steps: list[list[Any]] = [[] for _ in sessions]
    for found in desk.lockstep(*sessions, *others):
        for own, step in zip(steps, found, strict=False):
            own += [step] if step else []
    for own, expected in zip(steps, [alone[formula] for formula in alone for _ in range(2)], strict=True):
        assert [one.token_id for one in own] == [one.token_id for one in expected]
        near = 0 if batch_exact(desk.model.backend) else 1e-3
        assert [one.logprob for one in own] == pytest.approx([one.logprob for one in expected], abs=near)
    assert any(session.stats.acceptance for session in sessions)


@pytest.mark.parametrize("formula", [None, "1.5*sliders - 0.5*base"])
@pytest.mark.parametrize("options", STRONG.values(), ids=STRONG)
def test_a_replay_gives_the_same_logprobs(desk: Desk, options: dict[str, Any], formula: str | None):
    session = desk.session(PROMPT, desk.mix(humor=0.5), params(temperature=0, **options), formula=formula)
    logprobs = [step.logprob for step in session]
    replay = desk.replay(PROMPT, session.segments, session.params, formula)
    assert [step.logprob for step in replay] == pytest.approx(logprobs, abs=2e-4)
    other = [step.logprob for step in desk.replay(PROMPT, session.segments, params(), formula)]
    assert other != pytest.approx(logprobs, abs=1e-2)


@pytest.mark.parametrize("formula", [None, "sliders + 0.2*[humor]"])
def test_a_bias_forbids_and_forces(desk: Desk, formula: str | None):
    hot: dict[str, Any] = {"temperature": 3.0, "top_p": 1.0}
    common = desk.generate(PROMPT, params=params(**hot)).token_ids
    token = max(common, key=common.count)
    assert token not in desk.generate(PROMPT, None, params(**hot, logit_bias={token: -100}), formula).token_ids
    assert set(desk.generate(PROMPT, None, params(logit_bias={"q": 100}), formula).text) == {"q"}


@pytest.mark.parametrize("formula", [None, "sliders + 2*judge(politeness, k=5)"])
def test_a_budget_pays_nothing_for_penalties(desk: Desk, formula: str | None):
    steering = Steering(budget=0.01, whole=formula is None)
    asked = params(**STRONG["all"], min_new_tokens=0)  # else the budget pays for an end that may not come
    if formula is None:
        steps = [*desk.stream(PROMPT, None, asked, steering=steering)]
        assert all(step.nats == pytest.approx(0, abs=1e-4) for step in steps)
        free = desk.generate(PROMPT, None, asked)
        assert [step.token_id for step in steps] == list(free.token_ids)
    else:
        steps = [*desk.stream(PROMPT, None, asked, formula, steering)]
        assert all(step.nats <= 0.0101 for step in steps)


def test_the_texts_of_dry_repeat_less(desk: Desk):
    cold = desk.generate(PROMPT, params=params(60, temperature=0)).token_ids
    dry = desk.generate(PROMPT, params=params(60, temperature=0, dry_multiplier=5.0)).token_ids
    assert (
        np.unique([cold[i : i + 4] for i in range(56)], axis=0).shape
        < np.unique([dry[i : i + 4] for i in range(56)], axis=0).shape
    )
