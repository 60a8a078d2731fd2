from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import Desk
from mixer.errors import MixerError
from mixer.files.csv_table import read_table
from mixer.ui.panels.sweep import SweepQuestion, read_question, run, stops
from mixer.ui.state.page_state import PageState, read_state
from mixer.ui.state.request import request


def posted(desk: Desk, **changes: Any) -> dict[str, Any]:
    state = PageState(prompt="The door was", tokens=30, seed=11).json()
    name = next(iter(desk.attributes))
    return {"state": state, "part": "position", "name": name, "low": -1.5, "high": 1.5, "tokens": 10} | changes


def frames(desk: Desk, question: SweepQuestion) -> list[dict[str, Any]]:
    return list(run(desk, question, threading.Event()))


def check_cards(desk: Desk, last: dict[str, Any]) -> None:
    """A card's text is the one that the page writes in the card's state."""
    for card in last["cards"]:
        asked, _ = request(desk, read_state(json.loads(json.dumps(card["state"])), desk.attributes, desk.rewards))
        found = desk.generate_batch([asked])[0]
        assert card["text"] == found.text
        assert card["scores"] == pytest.approx(desk.scores(found.text))
        assert card["score"] == card["scores"].get(last["name"])


@given(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
def test_stops_go_evenly_from_end_to_end(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = stops(low, high)
    assert len(found) == 7 and list(found) == sorted(found)
    assert found[0] == pytest.approx(low, abs=0.006) and found[-1] == pytest.approx(high, abs=0.006)
    assert all(stop == round(stop, 2) and str(stop) != "-0.0" for stop in found)


def test_the_usual_stops_are_where_the_slider_has_its_notches() -> None:
    assert stops(-1.5, 1.5) == (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


def test_every_card_is_the_text_that_the_page_writes_there(desk: Desk) -> None:
    question = read_question(posted(desk), desk)
    *_, last = frames(desk, question)
    assert last["state"] == "done" and [card["position"] for card in last["cards"]] == list(stops(-1.5, 1.5))
    check_cards(desk, last)
    assert len({card["text"] for card in last["cards"]}) > 3
    assert last["cards"][3]["text"] == last["base"]
    assert [card["label"] for card in last["cards"]][2:5] == [
        f"{question.name} −0.50",
        "base",
        f"{question.name} +0.50",
    ]
    assert last["seed"] == 11


@pytest.mark.parametrize("formula", ["[0.7*formal + 0.3*polite]", "2*sliders - base", "[sliders + 0.3*polite]"])
def test_a_formula_goes_along_with_the_slider(desk: Desk, formula: str) -> None:
    state = PageState(prompt="The door was", formula=formula, positions={"formality": 0.7, "politeness": 0.3}).json()
    *_, last = frames(desk, read_question(posted(desk, state=state, name="formality", tokens=6), desk))
    check_cards(desk, last)
    assert len({card["text"] for card in last["cards"]}) > 1


def test_a_reward_is_swept_and_loses_its_level(desk: Desk) -> None:
    head = desk.rewards[0]
    state = {**PageState(prompt="The door was", positions={"humor": 0.5}).json(), "levels": {head: 0.3}}
    question = read_question(posted(desk, state=state, part="reward", name=head, low=-1, high=1, tokens=8), desk)
    *_, last = frames(desk, question)
    check_cards(desk, last)
    assert [card["state"]["rewards"].get(head, 0) for card in last["cards"]] == list(stops(-1, 1))
    assert not any(card["state"]["levels"] for card in last["cards"])
    assert read_table(last["csv"].replace("text", "prompt"), "prompt").rows[0][0] == f"reward.{head}"


def test_the_table_holds_what_was_asked_and_measured(desk: Desk) -> None:
    *_, last = frames(desk, read_question(posted(desk), desk))
    table = read_table(last["csv"].replace("text", "prompt", 1), "prompt")
    assert table.columns == ("attribute", "asked", "measured", "prompt")
    for row, card in zip(table.rows, last["cards"], strict=True):
        assert float(row[1]) == card["position"] and row[3] == card["text"]
        assert float(row[2]) == pytest.approx(2 * card["score"] - 1, abs=1e-4)


def test_cards_grow_and_a_flag_ends_them(desk: Desk) -> None:
    flag = threading.Event()
    before = desk.scheduler.rows_in_use
    question = read_question(posted(desk, tokens=200), desk)
    lengths, last = [], {}
    for last in run(desk, question, flag):
        assert last["state"] in ("running", "stopped")
        lengths.append(len(last["cards"][0]["text"]))
        flag.set()
    assert last["state"] == "stopped" and lengths == sorted(lengths)
    assert not any("state" in card for card in last["cards"])
    assert read_table(last["csv"].replace("text", "prompt"), "prompt").rows == ()
    assert desk.scheduler.rows_in_use == before
    gone = run(desk, question, threading.Event())
    next(gone)
    gone.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert desk.scheduler.rows_in_use == before


def test_a_fresh_seed_is_drawn_once(desk: Desk) -> None:
    state = {**PageState(prompt="A").json(), "fresh": True}
    question = read_question(posted(desk, state=state), desk)
    states = [question.at(desk, stop) for stop in question.stops]
    assert len({one.seed for one in states}) == 1 and not any(one.fresh for one in states)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "charm"}, "no attribute called 'charm'"),
        ({"name": ["formality"]}, "no attribute"),
        ({"part": "level"}, "no kind of slider"),
        ({"part": "reward", "name": "charm"}, "no reward called"),
        ({"low": -9}, "The low end is -9"),
        ({"high": None}, "The high end must be a number"),
        ({"low": 1, "high": -1}, "too small"),
        ({"low": 0, "high": 0.05}, "too small"),
        ({"tokens": 0}, "number of tokens"),
        ({"tokens": 2.5}, "whole number"),
        ({"tokens": 100_000}, "number of tokens"),
        ({"state": 5}, "state is not an object"),
        ({"state": {"formula": "2*base - [polite]"}}, "does not follow the sliders"),
        ({"state": {"formula": "[fromal]"}}, "Line 1, column 2"),
    ],
)
def test_anything_that_a_client_may_post_is_refused_with_a_sentence(
    desk: Desk, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MixerError, match=message):
        read_question(posted(desk, **changes), desk)


def test_what_cannot_be_written_is_told_once(desk: Desk) -> None:
    with pytest.raises(MixerError, match=r"^The prompt is empty"):
        frames(desk, read_question(posted(desk, state={"prompt": ""}), desk))
    with pytest.raises(MixerError, match="not an object"):
        read_question([], desk)
