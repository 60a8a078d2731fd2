from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from mixer import Desk
from mixer.errors import MixerError
from mixer.files.csv_table import read_table, write_table
from mixer.ui.panels.batch import MOST_CHARACTERS, MOST_ROWS, read_sheet, run
from mixer.ui.state.page_state import PageState
from mixer.ui.state.request import request
from tests.factory import TEMPLATE

STATE = PageState(prompt="Once", positions={"humor": 0.5}, tokens=12, seed=3)
FILE = "prompt,humor,tokens\nThe door,,\nThe door,-0.5,9\nA,9,\n,,\n"


def frames(desk: Desk, text: str, state: PageState = STATE) -> list[dict[str, Any]]:
    return list(run(desk, read_sheet({"state": state.json(), "text": text}, desk), threading.Event()))


def test_a_row_is_written_as_the_page_would_write_it(desk: Desk) -> None:
    first, *_, last = frames(desk, FILE.replace(",,\n", ",,\n"))
    assert (first["state"], first["done"], first["total"], first["wrong"]) == ("running", 1, 3, 1)
    assert (last["state"], last["done"], last["share"]) == ("done", 3, 1)
    table = read_table(last["csv"], "prompt")
    texts = [row[table.columns.index("text")] for row in table.rows]
    states = [
        PageState(prompt="The door", positions={"humor": 0.5}, tokens=12, seed=3),
        PageState(prompt="The door", positions={"humor": -0.5}, tokens=9, seed=3),
    ]
    assert texts[:2] == [desk.generate_batch([request(desk, state)[0]])[0].text for state in states]
    assert table.rows[2][-1].startswith("Row 4, column humor: The position is 9")
    assert [row["row"] for row in last["rows"]] == ["2", "3", "4"]
    assert last["rows"][2]["error"] and last["rows"][2]["prompt"] == "A"


def test_what_a_row_leaves_empty_is_as_on_the_page(desk: Desk) -> None:
    state = PageState("Once", "2*sliders - base", {"poetry": 1.0}, tokens=8, seed=9)
    *_, last = frames(desk, "prompt,seed\n,9", state)
    table = read_table(last["csv"], "prompt")
    assert table.rows[0][1] == desk.generate_batch([request(desk, state)[0]])[0].text


def test_rows_reply_as_the_page_would(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.tokenizer, "chat_template", TEMPLATE)
    messages = '[{"role": "user", "content": "A"}]'
    text = write_table(["prompt", "messages", "reply"], [["A", "", "yes"], ["", messages, ""], ["A", "", "no"]])
    plain, told = replace(STATE, prompt="A"), replace(STATE, prompt="A", reply=True, system="Be brief.")
    texts = [desk.generate_batch([request(desk, state)[0]])[0].text for state in (told, told, plain)]
    assert len({*texts}) == 2
    for state in (replace(STATE, system="Be brief."), replace(told, prompt="")):
        *_, last = frames(desk, text, state)
        table = read_table(last["csv"], "prompt")
        assert [row[table.columns.index("text")] for row in table.rows] == texts


@pytest.mark.parametrize("changes", [{"fresh": True}, {"seed": None}])
def test_where_the_page_draws_a_seed_every_row_has_its_own(desk: Desk, changes: dict[str, Any]) -> None:
    sheet = read_sheet({"state": {**STATE.json(), **changes}, "text": "prompt\nA\nA\n"}, desk)
    for _ in run(desk, sheet, threading.Event()):
        pass
    seeds = {job.session.seed for job in sheet.jobs if job.session}
    assert len(seeds) == 2


def test_a_flag_ends_it_and_what_is_finished_is_kept(desk: Desk) -> None:
    flag, before = threading.Event(), desk.scheduler.rows_in_use
    text = "prompt,tokens\nA,2\nB,400\nC,400\n"
    last: dict[str, Any] = {}
    for last in run(desk, read_sheet({"state": STATE.json(), "text": text}, desk), flag):
        if last["done"]:
            flag.set()
    assert last["state"] == "stopped" and (last["done"], last["total"]) == (1, 3)
    assert [row[0] for row in read_table(last["csv"], "prompt").rows] == ["A"]
    assert desk.scheduler.rows_in_use == before


def test_one_who_goes_away_gives_the_rows_back(desk: Desk) -> None:
    before = desk.scheduler.rows_in_use
    steps = run(desk, read_sheet({"state": STATE.json(), "text": "prompt,tokens\nA,400\n"}, desk), threading.Event())
    assert [next(steps)["state"], next(steps)["state"]] == ["running", "running"]
    assert desk.scheduler.rows_in_use == before + 1
    steps.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert desk.scheduler.rows_in_use == before


@pytest.mark.parametrize(
    "posted, message",
    [
        (None, "not an object"),
        ({"state": {}}, "The file is not a text"),
        ({"state": {}, "text": 5}, "The file is not a text"),
        ({"state": {}, "text": ""}, "no column 'prompt' or 'messages'"),
        ({"state": {}, "text": "prompt\n"}, "no rows"),
        ({"state": {}, "text": "prompt\n" + "x\n" * (MOST_ROWS + 1)}, f"more than {MOST_ROWS} rows"),
        ({"state": {}, "text": "x" * (MOST_CHARACTERS + 1)}, "1,000,000 is the most"),
        ({"state": {"tokens": -1}, "text": "prompt\na"}, "number of tokens"),
        ({"state": {"formula": "[fromal]"}, "text": "prompt\na"}, "Line 1, column 2"),
        ({"state": {}, "text": "prompt,reward.charm\na,1"}, "no reward called 'charm'"),
    ],
)
def test_anything_that_a_client_may_post_is_refused_with_a_sentence(desk: Desk, posted: object, message: str) -> None:
    with pytest.raises(MixerError, match=message):
        read_sheet(posted, desk)


def test_halves_of_letters_do_no_harm(desk: Desk) -> None:
    *_, last = frames(desk, "prompt,note\nA\ud800,\udfff\n")
    last["csv"].encode("utf-8")
