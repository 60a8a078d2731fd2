"""The command line: exit codes, one clear line for bad input, JSON as the last line of stdout."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixer import Desk, Mix, SamplingParams, Setting, Steering, load_mix, save_mix
from mixer.adapters.fingerprint import base_fingerprint
from mixer.cli import main
from mixer.files.mix_file import load_steering
from mixer.model.base import load_base
from tests.decoding.test_reward_rows import make_reward
from tests.factory import TEMPLATE, make_base, make_desk_folders

ROOT = Path(__file__).resolve().parents[2]


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


def test_generate_replies_to_messages_of_a_file_or_of_stdin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    base, anchors, file = make_base(tmp_path / "base", template=TEMPLATE), tmp_path / "anchors", tmp_path / "chat.json"
    anchors.mkdir()
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    messages.append({"role": "user", "content": "Go on \u2026"})
    file.write_text("\ufeff" + json.dumps(messages, ensure_ascii=False), encoding="utf-8")
    more = ["--base", base, "--anchors", anchors, "--max-new-tokens", "6", "--seed", "1", "--json"]

    def text(*words: str | Path) -> str:
        code, out, err = run(capsys, "generate", *words, *more)
        assert code == 0, err
        return json.loads(out.splitlines()[-1])["text"]

    desk, params = Desk.load(base, anchors), SamplingParams(max_new_tokens=6, seed=1)
    assert text("--messages", file) == text("--messages", file, "--chat") == desk.chat(messages, params=params).text
    told = [{"role": "system", "content": "Be brief."}, *messages]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert text("--messages", "-", "--system", "Be brief.") == desk.chat(told, params=params).text
    assert text("Hi", "--chat") == desk.chat("Hi", params=params).text


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        (b'[{"role": "user", "content": "Hi"}]', ["Hi"], "a prompt beside the messages"),
        (b'[{"role": "user", "content": "Hi"}]', [], "no chat template"),
        (b'[{"role": "user", "content": 5}]', [], "The content of message 1 is no text"),
        (b'{"role": "user", "content": "Hi"}', [], "is no JSON list. Give messages such as"),
        (b"", [], "'' is no JSON list"),
        (b"\xff", [], "is not in UTF-8. Save it as JSON in UTF-8."),
        (None, [], "cannot be read: No such file or directory. Give the path of a JSON file."),
    ],
)
def test_messages_that_cannot_be_replied_to_are_one_clear_line(
    tiny: Path, tmp_path: Path, capsys, data: bytes | None, words: list[str], message: str
):
    file = tmp_path / "chat.json"
    if data is not None:
        file.write_bytes(data)
    code, out, err = run(capsys, "generate", *words, "--messages", file, *desk_of(tiny))
    assert code == 2 and out == "" and message in err
    assert len(err.strip().splitlines()) == 1


def test_attributes_lists_what_is_loaded(tiny: Path, capsys):
    code, out, _ = run(capsys, "attributes", "--json", *desk_of(tiny))
    record = json.loads(out.splitlines()[-1])
    assert code == 0 and list(record["attributes"]) == ["formality", "humor"] and len(record["anchors"]) == 4
    assert "formality.negative (rank 4)" in run(capsys, "attributes", *desk_of(tiny))[1]


def test_a_mix_file_is_the_mix_and_what_is_set_beside_it_replaces_its_parts(tiny: Path, tmp_path: Path, capsys):
    mix = Mix({"formality": Setting.at(0.5, 2.0), "humor": Setting.at(1)}, "interpolate", {"humor.positive": 0.25})
    words = ["generate", "Dear", "--mix", save_mix(mix, tmp_path / "mix.yaml"), "--max-new-tokens", "3", "--seed", "1"]

    def made(*more: str) -> Mix:
        code, out, err = run(capsys, *words, *more, "--json", *desk_of(tiny))
        assert code == 0, err
        record = json.loads(out.splitlines()[-1])["mix"]
        assert record["key"] == Mix(raw=record["coefficients"]).key
        return Mix(raw=record["coefficients"])

    assert made() == mix
    assert made("--rule", "offset") == Mix(mix.settings, "offset", mix.raw)
    set_anew = Mix({"formality": Setting.at(0.5, 2.0), "humor": Setting.at(-0.4)}, "interpolate")
    assert made("--set", "humor=-0.4") == set_anew, "what is set replaces the file's slider and its raw coefficients"


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `tiny`, with a reward head for humor and one without anchors."""
    root = make_desk_folders(tmp_path_factory.mktemp("rewarded"))
    lm, _ = load_base(str(root / "base"), torch.device("cpu"), torch.float32)
    for attribute in ("humor", "toxicity"):
        make_reward(root / "anchors", attribute, base_fingerprint(lm))
    return root


def test_rewards_steer_within_their_budget_and_are_listed(rewarded: Path, tmp_path: Path, capsys):
    words = ["generate", "Dear", "--seed", "1", "--max-new-tokens", "6", "--temperature", "1", "--json"]

    def made(*more: str | Path) -> dict:
        code, out, err = run(capsys, *words, *more, *desk_of(rewarded))
        assert code == 0, err
        return json.loads(out.splitlines()[-1])

    steered = made("--reward", "humor=2", "--aim", "toxicity=0")
    assert steered["steering"] == {
        "rewards": {"humor": 2.0},
        "levels": {"toxicity": 0.0},
        "budget": 1.0,
        "whole": False,
    }
    assert 0 < steered["stats"]["most_nats"] <= 1 + 1e-6
    assert steered["stats"]["readings"].keys() == {"humor", "toxicity"}
    assert made("--reward", "humor=2", "--budget", "0.1", "--whole")["stats"]["most_nats"] <= 0.1 + 1e-6
    assert made("--reward", "humor=2", "--budget", "none")["steering"]["budget"] is None
    assert made()["steering"] == {"rewards": {}, "levels": {}, "budget": None, "whole": False}

    file = save_mix(Mix(), tmp_path / "mix.yaml", Steering({"humor": 2.0}, {"toxicity": 0.0}))
    assert made("--mix", file)["token_ids"] == steered["token_ids"]
    assert made("--mix", file, "--aim", "humor=1")["steering"]["levels"] == {"humor": 1.0, "toxicity": 0.0}
    assert made("--mix", file, "--reward", "humor=0", "--reward", "toxicity=0")["steering"]["budget"] == 1.0
    export = ["export", "mix", tmp_path / "out.yaml", "--reward", "humor=0.5", "--budget", "2", *desk_of(rewarded)]
    assert run(capsys, *export)[0] == 0
    assert load_steering(tmp_path / "out.yaml") == Steering({"humor": 0.5}, budget=2.0)

    code, out, _ = run(capsys, "attributes", *desk_of(rewarded))
    assert code == 0 and out.splitlines()[-1].split() == ["rewards", "humor,", "toxicity"]


def test_export_mix_writes_what_generate_reads(tiny: Path, tmp_path: Path, capsys):
    words = ["export", "mix", tmp_path / "mix.yaml", "--set", "humor=-0.4", "--rule", "interpolate", *desk_of(tiny)]
    assert run(capsys, *words)[:2] == (0, f"{tmp_path / 'mix.yaml'}\n")
    assert load_mix(tmp_path / "mix.yaml") == Mix({"humor": Setting.at(-0.4)}, "interpolate")
    code, _, err = run(capsys, *words)
    assert code == 2 and "mix.yaml is already there" in err
    assert run(capsys, *words, "--overwrite")[0] == 0


def test_export_adapter_writes_a_folder_and_shows_what_compression_keeps(tiny: Path, tmp_path: Path, capsys):
    words = ["--set", "humor=-0.4", "--set", "formality=1.5", *desk_of(tiny)]
    code, out, _ = run(capsys, "export", "adapter", tmp_path / "exact", *words)
    assert code == 0 and out.splitlines()[-1].startswith(f"{tmp_path / 'exact'}: rank 8, 14 modules, 0.")
    code, out, _ = run(capsys, "export", "adapter", tmp_path / "small", "--rank", "3", "--dtype", "float16", *words)
    assert code == 0 and "energy" in out.splitlines()[0] and out.splitlines()[1].startswith("model.layers.0")
    code, out, _ = run(capsys, "export", "adapter", tmp_path / "small", "--rank", "3", "--json", "--overwrite", *words)
    record = json.loads(out)
    assert code == 0 and record["rank"] == 3 and 0 < record["energy"] < 1 and len(record["modules"]) == 14
    code, _, err = run(capsys, "export", "adapter", tmp_path / "small", *words)
    assert code == 2 and "is not empty" in err


def test_export_merged_writes_a_model_that_the_desk_loads(tiny: Path, tmp_path: Path, capsys):
    words = ["export", "merged", tmp_path / "out", "--set", "humor=-0.4", *desk_of(tiny)]
    code, out, _ = run(capsys, *words, "--dtype", "bfloat16", "--json")
    record = json.loads(out)
    assert code == 0 and record["dtype"] == "bfloat16" and record["adapters"]["humor.negative"]["coefficient"] == 0.4
    (tmp_path / "none").mkdir()
    assert run(capsys, "generate", "Dear", "--base", tmp_path / "out", "--anchors", tmp_path / "none")[0] == 0
    code, out, _ = run(capsys, *words, "--overwrite")
    assert code == 0 and out.strip() == str(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "Hi", "--set", "charm=1"], "no attribute called 'charm'"),
        (["generate", "Hi", "--set", "formalty=1"], "Did you mean formality"),
        (["generate", "Hi", "--set", "formality=warm"], "--set 'formality=warm' is not a setting"),
        (["generate", "Hi", "--set", "formality=nan"], "position is nan"),
        (["generate", "Hi", "--set", "formality=1e9"], "position is 1e+09"),
        (["generate", "Hi", "--reward", "humor=1"], "no reward called 'humor'"),
        (["generate", "Hi", "--reward", "humor"], "--reward 'humor' is not a setting"),
        (["generate", "Hi", "--reward", "humor=9"], "reward humor is 9"),
        (["generate", "Hi", "--aim", "humor=2"], "level of humor is 2"),
        (["generate", "Hi", "--aim", "humor=1", "--reward", "humor=1"], "both a position and a level"),
        (["generate", "Hi", "--budget", "much"], "--budget 'much' is no budget"),
        (["generate", "Hi", "--budget", "-1"], "budget is -1"),
        (["generate", "Hi", "--reward-model", "x=/nowhere"], "/nowhere"),
        (["generate", ""], "prompt is empty"),
        (["generate", "word " * 20_000], "100,000 characters"),
        (["generate", "Hi", "--temperature", "-1"], "temperature is -1"),
        (["generate", "Hi", "--dtype", "int3"], "no dtype"),
        (["generate", "Hi", "--device", "abacus"], "'abacus' cannot be used"),
        (["generate", "Hi", "--anchors", "/nowhere"], "There is no folder /nowhere"),
        (["train", "anchors", "--base", "x"], "Nothing is shipped for this base"),
        (["generate", "Hi", "--base", "/nowhere"], "There is no base model at /nowhere"),
        (["generate", "Hi", "--mix", "/nowhere.yaml"], "The mix file /nowhere.yaml cannot be read"),
        (["export", "adapter", "/nowhere"], "The mix is the base model: there is no adapter to export"),
        (
            ["export", "adapter", "/nowhere", "--set", "humor=1", "--rank", "0"],
            "rank must be a whole number above zero",
        ),
        (["export", "merged", "/nowhere", "--set", "humr=1"], "Did you mean humor"),
        (["export", "mix", "/nowhere.yaml", "--set", "humor=1e9"], "position is 1e+09"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_two(tiny: Path, capsys, words: list[str], message: str):
    desk = () if words[0] == "train" else desk_of(tiny)
    code, out, err = run(capsys, *words[:2], *desk, *words[2:])
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


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has to be told to give memory back")
def test_large_arrays_go_back_to_the_system():
    """Also after one was freed: from then on, glibc keeps freed memory of that size unless it is told not to."""
    code = """
import os
import numpy as np
from mixer.process import give_back_memory
from bench.harness.processes import usage_of
give_back_memory()
np.ones(3_000_000)
pairs = [(np.ones(2_000_000), np.ones(10_000)) for _ in range(10)]
small = [one for _, one in pairs]
before = usage_of(os.getpid()).megabytes
del pairs
print(before - usage_of(os.getpid()).megabytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 150
