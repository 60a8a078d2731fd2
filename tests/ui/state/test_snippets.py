"""The snippets really run, and write what the page writes."""

from __future__ import annotations

import json
import os
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from mixer import Desk, SamplingParams
from mixer.cli import main
from mixer.ui.state import snippets
from mixer.ui.state.page_state import PageState
from mixer.values.steering import Steering
from tests.ui.state.test_page_state import states

STATE = PageState(
    'She said: "It\'s $HOME, `now`\\n"\nand then',
    'sliders - 0.5*[base] @ "a \\"quoted\\" \'word\'"',
    {"formality": -0.6, "poetry": 0.25},
    Steering({"sentiment": -0.8}, {"toxicity": 0.1}, budget=None, whole=True),
    temperature=0.9,
    tokens=14,
    seed=5,
    repetition_penalty=1.3,
    dry_multiplier=0.8,
)
shipped = pytest.mark.skipif(os.environ["MIXER_BASE"] != "tiny", reason="the snippets load the shipped desk")


def written(desk: Desk, state: PageState) -> str:
    penalties: dict[str, Any] = dict(state.penalties)
    params = SamplingParams(
        max_new_tokens=state.tokens,
        min_new_tokens=state.tokens // 2,
        temperature=state.temperature,
        seed=state.seed,
        **penalties,
    )
    mix = desk.mix(dict(state.positions))
    return desk.generate(state.prompt, mix, params, state.formula, state.steers).text


@shipped
@pytest.mark.parametrize(
    "state", [STATE, PageState("-- Dear", positions={"humor": 1.0}, tokens=8)], ids=["full", "plain"]
)
def test_the_python_and_the_command_write_what_the_page_writes(
    desk: Desk, state: PageState, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = written(desk, state)
    path = tmp_path / "snippet.py"
    path.write_text(snippets.python(state), encoding="utf-8")
    runpy.run_path(str(path))
    assert capsys.readouterr().out.strip() == text.strip()
    words = shlex.split(snippets.shell(state))
    assert words[:3] == ["python", "-m", "mixer"]
    assert main(words[3:]) == 0
    assert capsys.readouterr().out.strip() == text.strip()


def test_what_else_was_loaded_is_loaded_in_the_code_too() -> None:
    origin = snippets.DeskSource(
        {"base": "some one's/base", "device_map": "auto"},
        [("model", "big", "a/b", ""), ("judge", "kind", "c", "LABEL_1"), ("reward", "rad", "d", "")],
    )
    python = snippets.python(PageState(), origin)
    for line in (
        """desk = Desk.load(base="some one's/base", device_map='auto')""",
        "desk.add_model('big', 'a/b')",
        "desk.add_judge('kind', 'c', 'LABEL_1')",
        "desk.add_reward('rad', 'd')",
    ):
        assert f"{line}\n" in python
    words = shlex.split(snippets.shell(PageState(), origin))
    assert words[4:9] == [
        "--base=some one's/base",
        "--device-map=auto",
        "--model=big=a/b",
        "--judge=kind=c#LABEL_1",
        "--reward-model=rad=d",
    ]


@given(states)
def test_any_state_is_one_program_one_command_and_one_request(state: PageState) -> None:
    compile(snippets.python(state), "snippet", "exec")
    words = shlex.split(snippets.shell(state))
    assert words[-1] == state.prompt
    assert f"--formula={state.formula}" in words or state.formula == "sliders"
    curl = shlex.split(snippets.curl(state, "http://here/"))
    assert curl[2] == "http://here/gradio_api/call/v2/generate"
    assert json.loads(curl[curl.index("-d") + 1]) == snippets.request(state)


def test_a_fresh_seed_is_left_to_whoever_runs_it() -> None:
    state = PageState(seed=5, fresh=True)
    assert "seed=None" in snippets.python(state)
    assert "--seed" not in snippets.shell(state)
    assert "seed" not in snippets.request(state)
