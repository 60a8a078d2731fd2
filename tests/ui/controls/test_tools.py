from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from mixer import Desk
from mixer.ui.controls.tools import LONGEST_LINK, tell, visit
from mixer.ui.state.link import read_query, write_query
from mixer.ui.state.page_state import PageState
from tests.ui.state.test_page_state import json as any_json


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(any_json)
def test_whatever_is_posted_is_answered_in_words(desk: Desk, posted: Any) -> None:
    json.dumps(visit(desk)(posted))
    told = tell(desk)(posted)
    assert told.get("refused") or told["Python"]


def test_a_link_that_was_told_is_read_on_the_next_visit(desk: Desk) -> None:
    state = PageState("Dear", positions={next(iter(desk.attributes)): 0.5})
    told = tell(desk)({**state.json(), "address": "http://here/"})
    assert told["Link"] == f"http://here/?{write_query(state)}"
    assert visit(desk)(told["Link"].removeprefix("http://here/")) == {"state": state.json(), "notes": []}
    assert "http://here/gradio_api" in told["curl"]
    assert read_query("?__theme=dark", (), ()) is None
    assert visit(desk)("?__theme=dark") is None


@pytest.mark.parametrize("letters", [10, LONGEST_LINK])
def test_a_prompt_too_long_for_a_link_is_said_so_and_still_runs_as_code(desk: Desk, letters: int) -> None:
    told = tell(desk)(PageState("x" * letters).json())
    assert ("Link" in told) == (letters < LONGEST_LINK) == ("note" not in told)
    assert told["Python"] and told["curl"]
