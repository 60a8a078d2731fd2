"""A run in steps: a finished step is kept until what it is made from changes, and an interrupted run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixer.errors import BadArtifact
from mixer.measure.card_tables import as_time
from mixer.recipe.progress import Held, Progress, Step, read_record, time_left


def make_steps(folder: Path, done: list[str], second: dict, fail: bool = False) -> list[Step]:
    def do(name: str) -> str:
        if fail and name == "b":
            raise KeyboardInterrupt
        done.append(name)
        (folder / name).write_text(name)
        return f"made {name}"

    return [
        Step("a", lambda: do("a"), lambda: {"x": 1}, (folder / "a",), work=10),
        Step("b", lambda: do("b"), lambda: second, (folder / "b",), work=10),
        Step("c", lambda: do("c")),
    ]


def test_finished_steps_are_kept_and_a_run_goes_on_where_it_stopped(tmp_path: Path, capsys):
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        Progress(tmp_path, {}).run(make_steps(tmp_path, done, {"y": 1}, fail=True))
    assert done == ["a"]
    Progress(tmp_path, {"recipe": "r"}).run(make_steps(tmp_path, done, {"y": 1}))
    assert done == ["a", "b", "c"] and read_record(tmp_path)["recipe"] == "r"
    Progress(tmp_path, {}).run(make_steps(tmp_path, done, {"y": 1}))
    assert done == ["a", "b", "c", "c"], "a step that says nothing of what it is made from is always run"
    Progress(tmp_path, {}).run(make_steps(tmp_path, done, {"y": 2}))
    assert done[4:] == ["b", "c"]
    (tmp_path / "a").unlink()
    Progress(tmp_path, {}).run(make_steps(tmp_path, done, {"y": 2}))
    assert done[6:] == ["a", "c"]

    log = (tmp_path / "recipe.log").read_text().splitlines()
    assert log == capsys.readouterr().err.splitlines()
    assert [line[9:] for line in log[:2]] == ["[1/3] a: begins", "[1/3] a: made a; 0 s, in all 0 s; about 0 s left"]
    assert any("[2/3] b: kept; made b" in line for line in log) and "nothing is left" in log[-1]


def test_a_damaged_record_is_named(tmp_path: Path):
    for text in ("{", '{"steps": {"a": {}}}', '{"steps": [1]}', "[]"):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(BadArtifact, match=r"recipe\.json is no record of a run"):
            Progress(tmp_path, {})


def test_time_left_is_by_the_work_that_was_done():
    steps = [Step("x", str, work=30), Step("y", str, seconds=60)]
    assert time_left(steps, work=10, spent=20) == "about 2 min left"
    assert time_left(steps, 0, 0) == "time left unknown as yet" and time_left(steps[1:], 0, 0) == "about 60 s left"
    assert [as_time(s) for s in (3.2, 89, 600, 5400, 11100)] == ["3 s", "89 s", "10 min", "1 h 30 min", "3 h 05 min"]


def test_one_large_thing_is_held_at_a_time():
    held = Held()
    assert held.get("a", lambda: 1) == 1 and held.get("a", lambda: 2) == 1
    assert held.get("b", lambda: 3) == 3 and held.things == {"b": 3} and held.get("a", lambda: 4) == 4
