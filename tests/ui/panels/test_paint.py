"""The paint's frames: effects as the page draws them."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import pytest

from mixer import Desk, Effects, SamplingParams, Segment, Steering, effects
from mixer.errors import MixerError
from mixer.ui.panels.paint import painting, run
from mixer.ui.state.segments import write_written

PROMPT = "The last train of the evening was"


def asked(desk: Desk, formula: str | None = None, tokens: int = 16, **positions: float) -> tuple[dict[str, Any], Any]:
    """A text, and the question that the page would ask about it."""
    params = SamplingParams(max_new_tokens=tokens, seed=3)
    session = desk.session(PROMPT, desk.mix(positions), params, formula=formula, steering=Steering({"humor": 0.5}))
    for _ in session:
        pass
    return json.loads(json.dumps({"seq": 1, "prompt": PROMPT, "written": write_written(session, formula)})), session


def free(desk: Desk) -> bool:
    return desk.scheduler.rows_in_use == 0


def test_the_last_frame_paints_the_text_by_all_that_steered_it(desk: Desk) -> None:
    posted, session = asked(desk, formality=0.8, sentiment=-0.5)
    *frames, last = run(desk, posted, threading.Event())
    assert all(frame["state"] == "running" and 0 < frame["share"] <= 1 for frame in frames)
    assert last["state"] == "done" and "".join(cell["text"] for cell in last["cells"]) == session.text
    names = [(paint["kind"], paint["name"]) for paint in last["paints"]]
    assert names == [("all", ""), ("position", "formality"), ("position", "sentiment"), ("reward", "humor")]
    expected = effects(desk, PROMPT, session.segments, session.params)
    assert last["paints"][1]["total"] == pytest.approx(sum(expected.attributes["formality"]), abs=1e-3)
    for paint in last["paints"]:
        assert len(paint["values"]) == len(last["cells"])
        assert sum(paint["values"]) == pytest.approx(paint["total"], abs=0.01)
    assert json.loads(json.dumps(last, allow_nan=False)) == last and free(desk)


def test_under_a_formula_that_does_not_follow_the_sliders_they_paint_nothing(desk: Desk) -> None:
    posted, _ = asked(desk, "base + 0.5*[formal]", formality=1.0)
    *_, last = run(desk, posted, threading.Event())
    assert [paint["kind"] for paint in last["paints"]] == ["all", "reward"]


def test_tokens_of_one_character_are_one_cell_and_endless_effects_are_none() -> None:
    rest = (0.0,) * 5
    found = Effects(
        ("a", "", "", "é", ""), (-1.0, -2.0, -3.0, -4.0, -5.0), rest, {"x": (1.0, 2.0, 3.0, math.inf, -1.0)}, {}
    )
    drawn = painting(found)
    assert drawn["cells"] == [
        {"text": "a", "logprob": -1.0},
        {"text": "é", "logprob": -9.0},
        {"text": "", "logprob": -5.0},
    ]
    everything, own = drawn["paints"]
    assert own == {"kind": "position", "name": "x", "values": [1.0, None, -1.0], "total": None}
    assert everything["values"] == [0.0] * 3 and everything["total"] == 0.0


def test_a_flag_stops_it_and_rows_are_free(desk: Desk) -> None:
    posted, _ = asked(desk, formality=0.8)
    flag = threading.Event()
    flag.set()
    assert list(run(desk, posted, flag)) == [{"state": "stopped"}] and free(desk)
    work: Any = run(desk, posted, threading.Event())
    next(work)
    work.close()
    assert free(desk)


@pytest.mark.parametrize(
    "change", [{"prompt": ""}, {"prompt": 3}, {"written": None}, {"written": {"parts": [{"tokens": [10**9]}]}}]
)
def test_a_question_that_the_page_never_asks_is_refused(desk: Desk, change: dict[str, Any]) -> None:
    posted, _ = asked(desk, tokens=4)
    with pytest.raises(MixerError):
        list(run(desk, posted | change, threading.Event()))
    assert free(desk)


def test_tokens_of_another_model_are_refused_with_a_sentence(desk: Desk) -> None:
    posted, _ = asked(desk, tokens=4)
    posted["written"]["parts"][0]["tokens"] = [1.5, "a", None]
    with pytest.raises(MixerError, match="is no token"):
        list(run(desk, posted, threading.Event()))
    with pytest.raises(MixerError):
        desk.replay("", [Segment((5,))])
