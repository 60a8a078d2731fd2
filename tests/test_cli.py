"""The command line as a person meets it: exit codes, one clear line for bad input, JSON as the last line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mixer.cli import main

ROOT = Path(__file__).resolve().parents[1]


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def desk_of(tiny: Path) -> tuple[str, Path, str, Path]:
    return "--base", tiny / "base", "--anchors", tiny / "anchors"


def test_generate_gives_one_json_object_with_text_tokens_mix_and_stats(tiny: Path, capsys):
    words = [
        "generate",
        "Dear",
        "--set",
        "formality=0.8",
        "--set",
        "humor=-0.4",
        "--seed",
        "7",
        "--max-new-tokens",
        "9",
    ]
    code, out, _ = run(capsys, *words, "--json", *desk_of(tiny))
    record = json.loads(out.splitlines()[-1])
    assert code == 0 and len(record["token_ids"]) == 9 and record["stats"]["seed"] == 7
    assert record["mix"]["coefficients"] == {"formality.positive": 0.8, "humor.negative": 0.4}
    assert run(capsys, *words, *desk_of(tiny))[1].rstrip("\n") == record["text"].rstrip("\n")


def test_attributes_lists_what_is_loaded(tiny: Path, capsys):
    code, out, _ = run(capsys, "attributes", "--json", *desk_of(tiny))
    record = json.loads(out.splitlines()[-1])
    assert code == 0 and list(record["attributes"]) == ["formality", "humor"] and len(record["anchors"]) == 4
    assert "formality.negative (rank 4)" in run(capsys, "attributes", *desk_of(tiny))[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "Hi", "--set", "charm=1"], "no attribute called 'charm'"),
        (["generate", "Hi", "--set", "formalty=1"], "Did you mean formality"),
        (["generate", "Hi", "--set", "formality=warm"], "--set 'formality=warm' is not a setting"),
        (["generate", "Hi", "--set", "formality=nan"], "position is nan"),
        (["generate", "Hi", "--set", "formality=1e9"], "position is 1e+09"),
        (["generate", ""], "prompt is empty"),
        (["generate", "word " * 20_000], "100,000 characters"),
        (["generate", "Hi", "--temperature", "-1"], "temperature is -1"),
        (["generate", "Hi", "--dtype", "int3"], "no dtype"),
        (["generate", "Hi", "--device", "abacus"], "'abacus' cannot be used"),
        (["generate", "Hi", "--anchors", "/nowhere"], "There is no folder /nowhere"),
        (["train", "anchors", "--base", "x"], "would replace those that are shipped"),
        (["generate", "Hi", "--base", "/nowhere"], "There is no base model at /nowhere"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_two(tiny: Path, capsys, words: list[str], message: str):
    desk = desk_of(tiny) if words[0] == "generate" else ()
    code, out, err = run(capsys, words[0], *desk, *words[1:])
    assert code == 2 and out == "" and message in err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_the_module_runs_as_a_program(tiny: Path):
    words = ["generate", "Dear", "--max-new-tokens", "3", "--json", *map(str, desk_of(tiny))]
    done = subprocess.run([sys.executable, "-m", "mixer", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])["token_ids"]) == 3
    assert done.stderr == ""
    wrong = subprocess.run([sys.executable, "-m", "mixer", "generate"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "prompt" in wrong.stderr
