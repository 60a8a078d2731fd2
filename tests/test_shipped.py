"""What ships, as a user gets it: the laws on the embedded model and its anchors."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from mixer import Desk, SamplingParams
from tests.factory import merged_reference

ROOT = Path(__file__).resolve().parents[1]
BASE, ANCHORS = ROOT / "assets" / "base", ROOT / "anchors" / "tiny"
ATTRIBUTES = ["formality", "humor", "poetry", "politeness", "sentiment", "simplicity"]
PROMPT = "The last train of the evening was"


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk.load(device="cpu")


def plain(model: torch.nn.Module, desk: Desk) -> torch.Tensor:
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([desk.model.encode(PROMPT)])).logits[0, -1].float(), dim=-1)


def test_the_desk_has_six_attributes_of_two_rank_8_anchors(desk: Desk):
    assert list(desk.attributes) == ATTRIBUTES and desk.problems == ()
    assert all(len(a.anchors) == 2 and {x.rank for x in a.anchors} == {8} for a in desk.attributes.values())
    assert desk.context >= 512
    assert (BASE / "model.safetensors").stat().st_size <= 30 * 2**20
    assert 8e6 <= sum(p.numel() for p in desk.model.lm.parameters()) <= 14e6


def test_zero_coefficients_are_plain_transformers(desk: Desk):
    # In float64, since two float32 computations differ by as much as either is off.
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float64).eval()
    assert torch.allclose(desk.logprobs(PROMPT), plain(model, desk), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_any_coefficients_equal_the_merged_weights(desk: Desk, seed: int):
    rng = random.Random(seed)
    coefficients = {name: rng.choice([0.0, -1.5, 1.5, rng.uniform(-1, 2)]) / 2 for name in desk.anchors}
    coefficients[desk.anchors[seed]] = 1.5
    parts = [(ANCHORS / name.replace(".", "/"), c) for name, c in coefficients.items() if c]
    expected = plain(merged_reference(BASE, parts), desk)
    assert torch.allclose(desk.logprobs(PROMPT, desk.mix_from_coefficients(coefficients)), expected, atol=1e-4, rtol=0)


def test_every_pole_makes_its_own_texts_likelier(desk: Desk):
    """On pairs that no anchor was trained on, each pole prefers its own text more than the other pole does."""
    from mixer.training.data import find_pairs, split_pairs

    for attribute in ATTRIBUTES:
        pairs = split_pairs(find_pairs(None, attribute), "test")[:24]
        right = 0
        for pair in pairs:
            margin = {}
            for position in (-1.0, 1.0):
                mix = desk.mix({attribute: position})
                margin[position] = text_logprob(desk, pair.positive, mix) - text_logprob(desk, pair.negative, mix)
            right += margin[1.0] > margin[-1.0]
        # Sentiment is the hardest to tell by likelihood: its test pairs come out right about four times in five.
        assert right >= 0.65 * len(pairs), f"{attribute}: {right} of {len(pairs)}"


def text_logprob(desk: Desk, text: str, mix) -> float:
    model = desk.model
    ids, backend = model.encode(text), model.backend
    backend.reserve(1, len(ids))
    backend.gate[0] = mix.coefficients(desk.anchors)
    logits = backend.forward(ids, [0] * len(ids), range(len(ids)), range(len(ids) - 1))
    return float(torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(ids)[1:, None]).sum())


def test_the_judges_tell_plain_examples_apart(desk: Desk):
    assert desk.scores("I love this wonderful, happy place.")["sentiment"] > 0.6
    assert desk.scores("It was a terrible, sad and hopeless day.")["sentiment"] < 0.4
    assert set(desk.scores("A text.")) == {*ATTRIBUTES, "toxicity", "archaic", "excitement"}


def test_the_control_on_record_is_of_these_anchors():
    control = json.loads((ANCHORS / "control.json").read_text())
    assert {reach["attribute"] for reach in control["reaches"]} == set(ATTRIBUTES) and control["prompts"] == 50


def test_a_seed_gives_the_same_text_twice(desk: Desk):
    params = SamplingParams(max_new_tokens=20, seed=7)
    mix = desk.mix(formality=0.8, sentiment=-0.4)
    assert desk.generate(PROMPT, mix, params).text == desk.generate(PROMPT, mix, params).text
