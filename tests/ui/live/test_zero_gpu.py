from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from mixer import Desk, SamplingParams
from mixer.ui.live.browsers import BrowserSession
from mixer.ui.live.zero_gpu import LONGEST, ZeroGpu, gpu_seconds, is_zero_gpu
from mixer.ui.state.controls import DeckValue, describe
from mixer.ui.state.formula_text import Recipe

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ui.live.forked"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_move_made_here_turns_the_text_that_another_process_writes(told: dict[str, Any]) -> None:
    moved = told["moved"]
    assert (moved["state"], moved["seq"]) == ("done", 2)
    assert moved["frames"] > 5
    assert moved["text"].startswith(told["before"])
    assert len(moved["labels"]) == 2
    assert moved["labels"][0] == describe({told["names"][0]: 1.0})
    assert moved["labels"][1].startswith(describe({told["names"][1]: 1.5}))
    assert len(told["levels"]) == 2


def test_stop_and_a_browser_that_goes_away_end_it(told: dict[str, Any]) -> None:
    assert told["stopped"]["state"] == "stopped"
    assert told["stopped"]["words"] < 100
    assert told["gone"] == {"busy": False, "free": 2}


def test_two_workers_never_see_each_others_moves(told: dict[str, Any]) -> None:
    assert told["two"] == [describe({name: 1.0}) for name in told["names"][:2]]


def test_slots_run_out_are_freed_and_used_anew(told: dict[str, Any]) -> None:
    assert len(told["third"]) == 1
    assert "Try again" in told["third"][0]
    assert told["free"] == 2
    assert told["workers"] == 2


def test_errors_formulas_and_programs_take_the_same_way(told: dict[str, Any]) -> None:
    assert "prompt is empty" in told["empty"]
    assert told["formula"] == ["done", "2*sliders"]
    assert told["program"] == told["here"] != ""
    assert told["reply"] == told["replied"] != ""


def test_a_gpu_that_is_not_to_be_had_is_an_error_on_the_stage(desk: Desk) -> None:
    def none(task: Any) -> Any:
        def forked(*arguments: Any) -> Any:
            raise gr.Error("No GPU was available")
            yield

        return forked

    zero_gpu = ZeroGpu(desk, none, slots=1)
    (frame,) = zero_gpu.run(BrowserSession(), "The door", DeckValue(), "keep", SamplingParams())
    assert (frame.state, frame.error) == ("error", "No GPU was available")
    assert zero_gpu.slots.free == 1


def test_only_a_zero_gpu_space_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, is_one in (("true", True), ("1", True), ("", False), ("false", False)):
        monkeypatch.setenv("SPACES_ZERO_GPU", value)
        assert is_zero_gpu() == is_one
    monkeypatch.delenv("SPACES_ZERO_GPU")
    assert not is_zero_gpu()


@pytest.mark.parametrize(("tokens", "rate", "seconds"), [(160, 30, 16), (160, 0, 16), (100, 5, 30), (1000, 1, LONGEST)])
def test_a_gpu_is_asked_for_as_long_as_the_text_takes(tokens: int, rate: float, seconds: int) -> None:
    assert gpu_seconds((0, 1), "", "keep", SamplingParams(max_new_tokens=tokens), rate, Recipe()) == seconds
