"""Laws of replays: a replayed text has the log-probabilities it was written with, and those of uncached passes."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer import Desk, SamplingParams, Segment, Session, Steering
from mixer.adapters.fingerprint import base_fingerprint
from mixer.errors import InvalidValue
from mixer.values.steering import REST
from tests.decoding.test_reward_rows import make_reward
from tests.factory import make_desk_folders
from tests.model.parts import batch_exact

PROMPT, TEXT = "Nurse Abeni", " unfolded the map"
FORMULAS = [
    None,
    "1.5*sliders - 0.5*base",
    "[sliders + 0.3*humor] + reward(humor)",
    "sliders + 2*judge(politeness, k=5)",
]
PUSHED = Steering({"humor": 1.2}, {"toxicity": 0.2}, budget=0.4)


@pytest.fixture(scope="module", params=["native", "torch"])
def desk(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Desk:
    """A desk with two attributes and two reward heads."""
    root = make_desk_folders(tmp_path_factory.mktemp("replay"))
    plain = Desk.load(root / "base", root / "anchors", device="cpu")
    for attribute in ("humor", "toxicity"):
        make_reward(Path(root) / "anchors", attribute, base_fingerprint(plain.base_model))
    return Desk.load(root / "base", root / "anchors", device="cpu", native=request.param == "native", auto_fold=False)


@pytest.fixture(autouse=True)
def restless(desk: Desk) -> None:
    """No mix ever counts as resting, however slow the machine is. So `keep` never computes a text anew."""
    desk.scheduler.rest_seconds = 1e9


def ids(desk: Desk, text: str = TEXT) -> tuple[int, ...]:
    return tuple(desk.model.encode(text)[1:])  # without the token that begins every text


def write(session: Session, moves: dict[int, Any]) -> list[float]:
    """Write a text while its sliders move, and return the log-probabilities of its tokens.

    Args:
        moves: after the token with this index -> session attributes to set.
    """
    logprobs: list[float] = []
    for step in session:
        del logprobs[step.index :]
        if not step.dropped:
            logprobs.append(step.logprob)
        for name, value in moves.pop(step.index, {}).items():
            setattr(session, name, value)
    return logprobs


def again(desk: Desk, session: Session, formula: str | None = None) -> list[float]:
    replay = desk.replay(session.prompt, session.segments, session.params, formula)
    logprobs = [step.logprob for step in replay]
    assert replay.token_ids == session.token_ids and replay.text == session.text
    assert replay.segments == session.segments
    return logprobs


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("mode", ["keep", "refill", "restart"])
def test_a_text_written_under_a_moving_hand_is_as_likely_again(desk: Desk, mode: Any, formula: str | None):
    params = SamplingParams(max_new_tokens=24, min_new_tokens=9, temperature=0.7, seed=4)
    session = desk.session(PROMPT, desk.mix(humor=0.4), params, mode, formula=formula, steering=Steering())
    moves = {3: {"mix": desk.mix(formality=1)}, 7: {"steering": PUSHED}, 8: {"mix": desk.mix(humor=-1)}}
    logprobs = write(session, moves)
    assert len(session.segments) == (1 if mode == "restart" else 4)
    assert all(segment.exact for segment in session.segments) == (mode != "keep")
    assert again(desk, session, formula) == pytest.approx(logprobs, abs=1e-5)


def test_so_is_one_whose_stale_keys_were_read_anew_when_the_sliders_rested(desk: Desk):
    session = desk.session(PROMPT, desk.mix(humor=0.4), SamplingParams(max_new_tokens=20, seed=2), "keep")
    stream, logprobs = iter(session), []
    for step in stream:
        logprobs.append(step.logprob)
        if step.index == 5:
            session.mix = desk.mix(formality=1.5)
        if step.index == 11:
            desk.scheduler.in_flight[0].rest_seconds = -1.0
    cut = [(len(segment.token_ids), segment.exact) for segment in session.segments]
    assert cut == [(6, True), (6, False), (8, True)]
    assert again(desk, session) == pytest.approx(logprobs, abs=1e-5)


def test_and_one_with_a_budget_over_the_whole(desk: Desk):
    steering = Steering({"humor": 1.0}, budget=0.3, whole=True)
    session = desk.session(PROMPT, desk.mix(humor=1), SamplingParams(max_new_tokens=12, seed=2), steering=steering)
    logprobs = write(session, {4: {"steering": REST}, 8: {"steering": steering}})
    assert again(desk, session) == pytest.approx(logprobs, abs=1e-5)


@pytest.mark.parametrize("steering", [REST, PUSHED], ids=["unsteered", "steered"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_every_token_is_as_likely_as_from_a_pass_of_its_own(desk: Desk, formula: str | None, steering: Steering):
    tokens, params = ids(desk), SamplingParams(temperature=1)
    mixes = [desk.mix(humor=0.7), desk.mix(humor=-1, formality=0.5)]
    segments = [Segment(tokens[:6], mixes[0], steering), Segment(tokens[6:], mixes[1], steering)]
    got = [step.logprob for step in desk.replay(PROMPT, segments, params, formula)]
    for place, token in enumerate(tokens):
        expected = desk.logprobs(PROMPT + TEXT[:place], mixes[place >= 6], formula, steering)[token]
        assert got[place] == pytest.approx(float(expected), abs=1e-4)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from(FORMULAS), st.booleans())
def test_where_a_text_is_cut_into_segments_does_not_matter(
    desk: Desk, sizes: list[int], formula: str | None, exact: bool
):
    tokens, whole = ids(desk), Segment(ids(desk), desk.mix(humor=0.8))
    bounds = [*(at for at in accumulate([0, *sizes]) if at < len(tokens)), len(tokens)]
    parts = [replace(whole, token_ids=tokens[start:stop], exact=exact) for start, stop in pairwise(bounds)]
    one, many = (
        [step.logprob for step in desk.replay(PROMPT, segments, formula=formula)] for segments in ([whole], parts)
    )
    assert many == (one if batch_exact(desk.model.backend) else pytest.approx(one, abs=1e-4))


def test_replays_and_texts_run_side_by_side(desk: Desk):
    segments = [Segment(ids(desk), desk.mix(humor=1))]
    alone = [step.logprob for step in desk.replay(PROMPT, segments)]
    params = SamplingParams(max_new_tokens=len(alone), min_new_tokens=len(alone), seed=1)
    text = desk.generate(PROMPT, desk.mix(formality=1), params).text
    session = desk.session(PROMPT, desk.mix(formality=1), params)
    beside = [steps[0].logprob for steps in desk.lockstep(desk.replay(PROMPT, segments), session) if steps[0]]
    assert beside == pytest.approx(alone, abs=1e-4) and session.text == text


def test_segments_forget_what_a_ban_took_back(desk: Desk):
    letter = desk.generate(PROMPT, params=SamplingParams(max_new_tokens=1, seed=3)).text.strip() or "e"
    session = desk.session(
        PROMPT, params=SamplingParams(max_new_tokens=12, seed=3), formula=f'sliders + ban("{letter}", "a", "e")'
    )
    dropped = sum(step.dropped for step in session)
    assert [token for segment in session.segments for token in segment.token_ids] == session.token_ids
    assert dropped > 0 and len(again(desk, session, session.prompted.bound.formula.source)) == len(session.token_ids)


def test_a_banned_word_in_a_text_that_stands_already_stays(desk: Desk):
    replay = desk.replay(PROMPT, [Segment(ids(desk))], formula='base + ban("the", "map")')
    assert [step.dropped for step in replay] == [0] * len(TEXT) and replay.text == TEXT


def test_an_end_is_part_of_a_text(desk: Desk):
    *_, last = desk.replay(PROMPT, [Segment((*ids(desk), 0))])
    expected = desk.logprobs(PROMPT + TEXT)[0]
    assert last.token_id == 0 and last.text == "" and last.logprob == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((), "no tokens"),
        ((5, 260), "'260' is no token"),
        ((-1,), "'-1' is no token"),
        ((True,), "'True' is no token"),
        ((0.5,), "'0.5' is no token"),
        ((7, 0, 7), "stands inside"),
        ((7,) * 120, "120 tokens, and behind this prompt 116 fit"),
    ],
)
def test_what_is_no_text_is_refused(desk: Desk, tokens: tuple[Any, ...], message: str):
    with pytest.raises(InvalidValue, match=message):
        desk.replay(PROMPT, [Segment(tokens)])
    with pytest.raises(InvalidValue, match="no tokens"):
        desk.replay(PROMPT, [])


def test_no_row_is_lost(desk: Desk):
    stream: Any = desk.lockstep(*(desk.replay(PROMPT, [Segment(ids(desk))]) for _ in range(3)))
    next(stream)
    assert desk.scheduler.rows_in_use == 3
    stream.close()
    assert desk.scheduler.rows_in_use == 0 and torch.is_inference_mode_enabled() is False
