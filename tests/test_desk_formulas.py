"""A desk's formulas against a float64 reference that was written apart, from each term's own full forward pass."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from mixer import Desk
from mixer.errors import FormulaError
from mixer.formula.bind import Branch
from mixer.formula.tree import Formula
from mixer.model.torch_backend import TorchBackend
from tests.factory import byte_tokenizer
from tests.formula.reference import Reference, Refused
from tests.formula.trees import formulas

NAMES = ("sliders", "base", "formality", "humor", "humor.negative", "formality.positive")
OPINIONS = ("formality", "politeness", "nontoxic")
PROMPT = "Nurse Abeni unfolded"
positions = st.floats(-1.5, 1.5).map(lambda value: round(value, 2))


class Terms:
    """Every term's next-token log-probabilities `(V,)`, by the model's own code in float64, uncached."""

    def __init__(self, folder: Path, desk: Desk) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder / "base").double()
        self._backend = TorchBackend(model, [adapter.parts for adapter in desk.anchor_set.adapters], rows=1)
        self._anchors, self._tokenizer = desk.anchors, byte_tokenizer()
        self.of = lru_cache(maxsize=None)(self._of)

    def _of(self, prompt: str, coefficients: tuple[float, ...]) -> np.ndarray:
        ids = self._tokenizer(prompt).input_ids
        self._backend.gate[0] = coefficients
        logits = self._backend.forward(ids, [0] * len(ids), range(len(ids)), [len(ids) - 1])[0].double()
        return torch.log_softmax(logits, -1).numpy()

    def branch(self, branch: Branch, coefficients: tuple[float, ...]) -> np.ndarray:
        """A branch's, with its prompt put before the user's here anew."""
        prompt = PROMPT
        if branch.only:
            prompt = branch.prompt or ""
        elif branch.prompt:
            prompt = branch.prompt + ("" if branch.prompt[-1] in " \n" else "\n") + PROMPT
        return self.of(prompt, coefficients)


@pytest.fixture(scope="module")
def desk(tiny: Path) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu")


@pytest.fixture(scope="module")
def terms(tiny: Path, desk: Desk) -> Terms:
    return Terms(tiny, desk)


def agrees(desk: Desk, terms: Terms, formula: Formula, formality: float, humor: float) -> None:
    def score(judge: str, token: int | None) -> float:
        ending = "" if token is None else desk.tokenizer.decode([token], skip_special_tokens=True)
        return desk.catalog._judges.score(judge, [(PROMPT + str(ending)).rstrip("\ufffd")])[0]

    try:
        bound = desk.formula(str(formula)).bound
    except FormulaError as error:
        assert "different terms" in str(error)
        return
    sliders = desk.mix(formality=formality, humor=humor)
    values = {row: terms.branch(row, row.under(sliders).coefficients(desk.anchors)) for row in bound.branches}
    reference = Reference(bound, values, score)
    try:
        expected, error = reference.result()
    except Refused:
        assume(reference.margin > 1e-4)  # of equal tokens a cut may keep another one
        with pytest.raises(FormulaError):
            desk.logprobs(PROMPT, sliders, str(formula))
        return
    # The desk's own passes are float32, some 1e-5 away: beside a cut or a threshold that decides otherwise.
    assume(reference.margin > 1e-4)
    got = desk.logprobs(PROMPT, sliders, str(formula)).numpy()
    seen = expected > -60
    gap = np.abs(got[seen] - expected[seen])
    event("within 1e-4" if gap.max() < 1e-4 else "float32 loses more in this formula")
    assert (gap <= np.maximum(1e-4, error[seen])).all(), f"{formula}: {gap.max()}"


grown = formulas(5, NAMES, OPINIONS)


@settings(max_examples=25)
@given(grown, positions, positions)
def test_log_probabilities_are_the_reference_s(desk, terms, formula, formality, humor):
    agrees(desk, terms, formula, formality, humor)


@pytest.mark.slow
@settings(max_examples=600)
@given(grown, positions, positions)
def test_log_probabilities_are_the_reference_s_at_length(desk, terms, formula, formality, humor):
    agrees(desk, terms, formula, formality, humor)
