"""Opinions are those that judges have of the decoded texts, token by token."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import Desk
from mixer.decoding.opinions import LEAST, TextOpinions
from mixer.decoding.prompted import NO_STATE


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk.load()


def opinions(desk: Desk, prompt: str, ids: list[int]) -> TextOpinions:
    return desk.session(prompt).prompted.opinions.after(ids, NO_STATE)


texts = st.sampled_from(["", "It was lovely", " and “so” she said: “Thank you", "\n\nDamn the naïve café", "100 % —"])


@given(texts, st.lists(st.integers(0, 8000), max_size=4), st.lists(st.integers(0, 8000), min_size=1, max_size=12))
def test_candidates_score_as_the_decoded_texts_do(desk: Desk, text: str, more: list[int], candidates: list[int]):
    tokenizer: Any = desk.tokenizer.backend_tokenizer
    ids = [*desk.tokenizer(text).input_ids, *more]
    reader = opinions(desk, "The waiter said:", ids)
    logs, now = reader.candidates("politeness", 1.0, candidates)
    whole = ["The waiter said:" + tokenizer.decode([*ids, *own]) for own in ([], *([c] for c in candidates))]
    if any("\ufffd" in one for one in whole):
        return  # half a character, which opinions leave out
    assert desk.judges
    expected = [math.log(max(score, LEAST)) for score in desk.judges.score("politeness", whole)]
    assert now == pytest.approx(expected[0], abs=1e-5)
    assert logs.tolist() == pytest.approx(expected[1:], abs=1e-5)


def test_goals_mirror_each_other_and_the_end_of_the_text_changes_nothing(desk: Desk):
    reader = opinions(desk, ".", desk.tokenizer("Thank you").input_ids)
    for_it, against = (reader.strength("politeness", goal) for goal in (1.0, 0.0))
    assert for_it + against == pytest.approx(1) and reader.strength("politeness", 0.5) == pytest.approx(0.5)
    logs, now = reader.candidates("politeness", 1.0, [next(iter(desk.model.eos_ids))])
    assert float(logs[0]) == pytest.approx(now, abs=1e-6)
