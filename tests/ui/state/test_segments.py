"""What a text was written under, as JSON: it is read back as it was, and anything else is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import Desk, SamplingParams, Steering
from mixer.errors import MixerError, Unsupported
from mixer.ui.live.browsers import BrowserSession
from mixer.ui.live.stream import run
from mixer.ui.state.controls import DeckValue
from mixer.ui.state.segments import read_written, write_written

PROMPT = "The door was"
SOUND: dict[str, Any] = {"formula": None, "temperature": 0.8, "least": 2, "parts": [{"tokens": [5, 6, 7]}]}


def test_what_is_written_reads_back(desk: Desk) -> None:
    formula, params = (
        "1.5*sliders - 0.5*base",
        SamplingParams(max_new_tokens=24, min_new_tokens=12, seed=7, repetition_penalty=1.2, logit_bias={"7": 1.5}),
    )
    steering = Steering({"humor": 0.35}, {"toxicity": 0.1}, budget=None, whole=True)
    session = desk.session(PROMPT, desk.mix(formality=0.1), params, "refill", formula=formula, steering=steering)
    for step in session:
        if step.index == 9:
            session.mix, session.steering = desk.mix(humor=-1.35, poetry=0.05), Steering()
    posted = json.loads(json.dumps(write_written(session, formula)))
    segments, read, text = read_written(posted, desk)
    assert len(segments) == 2 and text == formula
    assert read == replace(params, seed=0)
    for segment, original in zip(segments, session.segments, strict=True):
        assert (segment.token_ids, segment.exact) == (original.token_ids, original.exact)
        assert segment.steering == original.steering
        assert segment.mix.coefficients(desk.anchors) == pytest.approx(original.mix.coefficients(desk.anchors))


def test_a_text_without_tokens_was_written_under_nothing(desk: Desk) -> None:
    assert write_written(desk.session(PROMPT), None) is None


def test_only_the_last_frame_of_a_take_says_it(desk: Desk) -> None:
    params = SamplingParams(max_new_tokens=8, seed=7)
    take = run(desk, BrowserSession(), PROMPT, DeckValue(1, {"formality": 0.5}), "keep", params)
    *frames, last = [frame.json()["written"] for frame in take]
    assert not any(frames)
    (segment,), _, formula = read_written(json.loads(json.dumps(last)), desk)
    assert segment.token_ids == desk.generate(PROMPT, desk.mix(formality=0.5), params).token_ids and formula is None


def test_a_sound_one_is_read(desk: Desk) -> None:
    (segment,), params, formula = read_written(SOUND, desk)
    assert segment.token_ids == (5, 6, 7) and segment.exact and not segment.mix.weights and not segment.steering.heads
    assert params.max_new_tokens == 3 and formula is None


@pytest.mark.parametrize(
    "change",
    [
        {"parts": None},
        {"parts": []},
        {"parts": "text"},
        {"parts": [3]},
        {"parts": [{"tokens": []}]},
        {"parts": [{"tokens": "567"}]},
        {"parts": [{"tokens": [5], "exact": 1}]},
        {"parts": [{"tokens": [5], "positions": {"formality": 9}}]},
        {"parts": [{"tokens": [5], "positions": {"charm": 1}}]},
        {"parts": [{"tokens": [5], "rewards": {"charm": 1}}]},
        {"parts": [{"tokens": [5], "budget": "much"}]},
        {"parts": [{"tokens": [5] * 1001}]},
        {"parts": [{"tokens": [5]}] * 1001},
        {"temperature": None},
        {"temperature": 9},
        {"least": -1},
        {"least": True},
        {"formula": 3},
    ],
)
def test_one_that_the_page_never_sends_is_refused(desk: Desk, change: dict[str, Any]) -> None:
    with pytest.raises(MixerError):
        read_written(SOUND | change, desk)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["parts", "tokens", "exact", "least", "formula", "temperature", "positions"]), x
            )
        ),
    )
)
def test_nonsense_is_refused_with_a_sentence(desk: Desk, posted: Any) -> None:
    with pytest.raises(MixerError):
        read_written(posted, desk)


def test_what_would_be_read_anew_without_end_is_not_replayed(desk: Desk) -> None:
    parts = [{"tokens": [5, 5], "exact": True}] * 400
    with pytest.raises(Unsupported, match="moved too often"):
        read_written(SOUND | {"parts": parts}, desk)
    kept = [part | {"exact": False} for part in parts]
    assert len(read_written(SOUND | {"parts": kept}, desk)[0]) == 400
