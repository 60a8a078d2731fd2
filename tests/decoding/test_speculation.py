"""Speculation changes the speed of a text and nothing else. It makes as many guesses as pay off."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import mixer.decoding.prompted
import mixer.decoding.rows
from mixer import Desk, SamplingParams
from mixer.decoding.evaluate import evaluate
from mixer.decoding.sampler import warp
from mixer.decoding.speculation import MOST, DraftCosts, Speculation, repeated
from mixer.errors import FormulaError
from tests.factory import make_adapter
from tests.model.parts import batch_exact

WORDS = ["<s>", "a", "b", "c", "d", "e"]
TERMS = [
    "1.2*sliders",
    "sliders + 0.4*base",
    'sliders - 0.5*[base] @ "b c b" + 0.3*[humor.positive]',
    'sliders - 0.5*union(base, [humor.positive]) + 0.2*[humor.negative] @ only("e")',
]
PROMPT, LENGTH = "a b a b a", 3
MIX = {"humor": 0.6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk of a model with six words, so that all texts of three words can be enumerated."""
    root = tmp_path_factory.mktemp("six")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<s>").save_pretrained(root / "base")
    torch.manual_seed(2)
    size: dict[str, Any] = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
    }
    config = LlamaConfig(**size, num_hidden_layers=1, num_attention_heads=2, bos_token_id=0, eos_token_id=None)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(12)
    model.save_pretrained(root / "base")
    for seed, pole in enumerate(("negative", "positive")):
        make_adapter(root / "base", root / "anchors" / "humor" / pole, seed=seed + 1)
    return root


@pytest.fixture(scope="module", params=["native", "torch"])
def desk(folder: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk.load(folder / "base", folder / "anchors", native=request.param == "native", auto_fold=False)


def options(seed: int | None = None, length: int = LENGTH, temperature: float = 0.9) -> SamplingParams:
    return SamplingParams(max_new_tokens=length, temperature=temperature, top_p=0.98, seed=seed)


def exact(desk: Desk, formula: str) -> dict[tuple[int, ...], float]:
    """The probability of every text, from uncached passes over each of its prefixes."""
    session = desk.session(PROMPT, desk.mix(MIX), options(), formula=formula)
    known: dict[tuple[int, ...], list[float]] = {}

    def after(ids: tuple[int, ...]) -> list[float]:
        if ids not in known:
            logprobs = {}
            for branch_prompt in session.prompted.branch_prompts:
                logits = branch_prompt.model.logits(
                    [*branch_prompt.prompt_ids, *ids], branch_prompt.under(session.mix)[1]
                )
                logprobs[branch_prompt.branch] = torch.log_softmax(logits, dim=-1)
            known[ids] = warp(evaluate(session.prompted.bound, logprobs), options()).double().exp().tolist()
        return known[ids]

    found = {}
    for ids in product(range(len(WORDS)), repeat=LENGTH):
        chance = 1.0
        for place, token in enumerate(ids):
            chance *= after(ids[:place])[token] if chance else 0.0
        found[ids] = chance
    return found


def distance(desk: Desk, formula: str, draft: str, batch: int, samples: int) -> tuple[float, float]:
    """Total variation distance between sampled texts and the exact distribution, and the most that chance explains."""
    want, got = exact(desk, formula), Counter[tuple[int, ...]]()
    for start in range(0, samples, batch):
        sessions = [
            desk.session(PROMPT, desk.mix(MIX), options(seed), formula=formula, draft=draft)  # type: ignore[arg-type]
            for seed in range(start, start + batch)
        ]
        for _ in desk.lockstep(*sessions):
            pass
        got.update(tuple(session.token_ids) for session in sessions)
    total = 0.5 * sum(abs(got[ids] / samples - chance) for ids, chance in want.items())
    # The expected distance of multinomial counts, plus three standard deviations of that distance.
    chance = 0.5 * sum((2 / torch.pi * p * (1 - p) / samples) ** 0.5 for p in want.values())
    return total, chance + 3 * 0.5 / samples**0.5


@pytest.mark.parametrize("formula", TERMS, ids=["1 term", "2 terms", "3 terms", "4 terms"])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("samples", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_speculated_texts_have_the_exact_distribution(desk: Desk, formula: str, batch: int, samples: int):
    if samples > 400 and not batch_exact(desk.model.backend):
        pytest.skip("the draws are the same code; the large sample runs on the compiled network")
    total, allowed = distance(desk, formula, "base", batch, samples)
    assert total < allowed


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("formula", [*TERMS, "supersede(base, sliders + 0.5*[humor.negative])", "sliders"])
def test_a_text_is_the_same_with_and_without_guesses(desk: Desk, formula: str, temperature: float):
    for seed in range(4):
        params = options(seed, 40, temperature)
        plain = desk.session(PROMPT, desk.mix(MIX), params, formula=formula, draft="off")
        assert len([step for step in plain if not step.guessed]) == 40 and plain.stats.acceptance is None
        for draft in ("auto", "ngram", "base"):
            guessed = desk.session(PROMPT, desk.mix(MIX), params, formula=formula, draft=draft)  # type: ignore[arg-type]
            steps = list(guessed)
            assert guessed.token_ids == plain.token_ids, draft
            speculation = guessed.speculation
            assert sum(step.guessed for step in steps) == (speculation.accepted if speculation else 0)


def test_a_refusal_behind_a_guess_that_fails_breaks_no_text_off(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """A formula may have no value after a wrong guess, at a position that the text never reaches."""
    plain = desk.generate(PROMPT, None, options(3, 30), TERMS[1])

    def one_by_one(bound, logprobs, reader=None):
        if next(iter(logprobs.values())).ndim > 1:
            raise FormulaError("It comes to nothing there.", "", "", 0, 1)
        return evaluate(bound, logprobs, reader)

    monkeypatch.setattr(mixer.decoding.rows, "evaluate", one_by_one)
    session = desk.session(PROMPT, None, options(3, 30), formula=TERMS[1], draft="base")
    assert [step.token_id for step in session] == list(plain.token_ids) and session.stats.acceptance


def test_a_good_draft_is_accepted_and_a_text_in_a_batch_keeps_its_own(desk: Desk):
    target = "1.01*base + 0.01*[humor]"
    sessions = [
        desk.session(PROMPT, None, options(seed, 30), formula=f"supersede(base, {target})") for seed in range(4)
    ]
    for _ in desk.lockstep(*sessions):
        pass
    for seed, session in enumerate(sessions):
        assert (session.stats.acceptance or 0) > 0.9
        assert session.token_ids == list(
            desk.generate(PROMPT, None, options(seed, 30), "1.01*base + 0.01*[humor]").token_ids
        )


def test_a_move_is_not_kept_waiting_by_guesses(desk: Desk):
    """When the sliders move, tokens that were verified under the former mix are dropped."""
    session = desk.session(PROMPT, None, options(5, 40), "refill", "sliders", draft="base")
    target = desk.mix(humor=2)
    keys = []
    for step in session:
        keys.append(step.mix_key)
        if step.index == 10:
            session.mix = target
    assert set(keys[11:]) == {target.key} and len(keys) == 40


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 8))
def test_what_is_repeated_did_follow_the_same_words(ids: list[int], most: int):
    guess = repeated(ids, most)
    assert len(guess) <= most
    if guess:
        ends = [ids[:at] for at in range(len(ids)) if ids[at : at + len(guess)] == guess]
        assert any(before[-2:] == ids[-2:] for before in ends)


def test_the_latest_and_longest_repetition_counts():
    assert repeated([1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], 3) == [8, 1, 2]
    assert repeated([5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2], 1) == [7]
    assert repeated([1, 2, 3], 4) == []


@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0.001, 1)), min_size=1, max_size=30), st.integers(0, 8))
def test_costs_are_positive_and_never_fall_with_more_guesses(passes: list[tuple[int, float]], guesses: int):
    costs = DraftCosts()
    for count, seconds in passes:
        costs.add(count, seconds)
    assert 0 < costs.at(guesses) <= costs.at(guesses + 1)


def follow(rate: float, draft_seconds: float, verify_seconds: float) -> int:
    """The number of guesses that speculation settles at, for a rate of accepted guesses and given costs of passes."""
    speculation = Speculation(object() if draft_seconds else None)  # type: ignore[arg-type]
    for block in range(200):
        length = speculation.length(100)
        for _ in range(length if draft_seconds else 0):
            speculation.saw_draft(draft_seconds)
        held = next((i for i in range(length) if (block * 7 + i * 3) % 10 >= 10 * rate), length)
        speculation.saw(length, held, 1.0 + verify_seconds * length)
    return speculation.length(100)


def test_the_length_of_a_block_follows_rate_and_cost():
    assert follow(1.0, 0.0, 0.01) == MOST
    assert follow(0.9, 0.05, 0.02) > follow(0.5, 0.05, 0.02) >= 1
    assert follow(0.3, 0.9, 0.1) == 0
    fresh = Speculation(None)
    assert fresh.length(5) == 0, "one pass without guesses, and one with some, to know what they cost"
    fresh.saw(0, 0, 1.0)
    assert fresh.length(5) == 2 and fresh.length(1) == 1 and fresh.length(0) == 0


def test_a_draft_whose_only_token_is_barred_stops_guessing(desk: Desk):
    plain = "sliders + 0.2*[humor.positive]"
    for seed in range(4):
        tokens = []
        for formula in (plain, f"supersede(top(base, k=1), {plain})"):
            session = desk.session(PROMPT, None, options(seed, 30), formula=formula)
            session.state.barred = lambda index: {1 + index % 3, 4}  # type: ignore[method-assign]
            tokens.append([step.token_id for step in session])
        assert tokens[0] == tokens[1] and len(tokens[0]) == 30


def test_a_draft_that_comes_to_nothing_ends_no_text(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    plain = "sliders + 0.2*[humor.positive]"
    formula = desk.formula(f"supersede(top(base, k=1), {plain})")

    def without_draft(bound, logprobs, reader=None):
        if bound is formula.bound.draft:
            raise FormulaError("It comes to nothing there.", "", "", 0, 1)
        return evaluate(bound, logprobs, reader)

    expected = desk.generate(PROMPT, None, options(3, 30), plain).token_ids
    monkeypatch.setattr(mixer.decoding.rows, "evaluate", without_draft)
    monkeypatch.setattr(mixer.decoding.prompted, "evaluate", without_draft)
    assert desk.generate(PROMPT, None, options(3, 30), formula).token_ids == expected
