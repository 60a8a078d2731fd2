"""Laws of the protocol: prompts are held out and lean nowhere, a run that was cut goes on, all methods are measured."""

from __future__ import annotations

import json
import lzma
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.steering_study.comparison import at, resampled
from bench.steering_study.methods import Method, MethodTexts
from bench.steering_study.steering import METHODS, SLIDERS, _kept, measure, prompts_for
from mixer.cli import main
from mixer.judges.linear import load_judges
from mixer.measure.control import held_out_prompts
from mixer.training.data import TOXICITY, split_of
from mixer.training.head_training import HeadTraining, calibrate_teacher, train_head
from mixer.training.reward_head import HeadConfig
from mixer.training.reward_model import TeacherConfig, train_teacher

CONFIG = HeadConfig(rank=2, texts=24, a_text=4, epochs=2, rows=64)
JUDGES = Path(__file__).resolve().parents[3] / "assets" / "judges"


def unpaired(root: Path, attribute: str, pole: str, texts: list[str]) -> None:
    folder = root / "attributes" / attribute
    folder.mkdir(parents=True, exist_ok=True)
    with lzma.open(folder / f"{pole}.txt.xz", "wt") as file:
        file.write("\n".join(texts) + "\n")


def test_prompts_of_an_attribute_are_held_out_openings(tmp_path: Path):
    assert prompts_for("sentiment", None, 300) == (held_out_prompts(count=300), "openings of test pairs")
    texts = [f"The {i} plain words that go on and on and on until it ends." for i in range(200)]
    unpaired(tmp_path, "formality", "positive", texts)
    unpaired(tmp_path, "poetry", "negative", [f"So {text}" for text in texts])
    found, source = prompts_for("sentiment", tmp_path, 500)
    more = found[len(held_out_prompts(count=500)) :]
    assert len(found) == len(set(found)) > 410 and "plain" in source
    assert more and all(
        any(t.startswith(p) and split_of(t) == "test" for t in texts + [f"So {t}" for t in texts]) for p in more
    )
    assert all(len(prompt.split()) == 6 for prompt in more)


def test_toxic_prompts_are_halves_of_test_texts(tmp_path: Path):
    texts = [f"you are number {i} of the worst ones" for i in range(100)] + ["too short"]
    unpaired(tmp_path, TOXICITY, "positive", texts)
    found, source = prompts_for(TOXICITY, tmp_path, 300)
    kept = [text for text in texts if split_of(text) == "test" and len(text.split()) > 5]
    assert list(found) == [" ".join(text.split()[:4]) for text in kept] and "toxic" in source
    assert prompts_for(TOXICITY, None, 20)[0] == held_out_prompts(count=20)


def test_measures_are_those_of_the_texts():
    prompts = ("A", "B", "C")
    texts = [MethodTexts((f"good {s}", "bad bad bad", " "), (s, 2 * s, 0.0), (2, 3, 1), 2 * s) for s in SLIDERS]

    def loglikelihoods(prompts, texts):
        assert " " not in texts
        return np.array([-2.0, -3.0])

    line, points = measure(texts, prompts, load_judges(JUDGES), "sentiment", loglikelihoods, resampled(3, 50))
    assert line.nats.shape == line.scores.shape == line.surprise.shape == (51, len(SLIDERS))
    assert [p.nats for p in points] == pytest.approx([3 * s / 6 for s in SLIDERS], abs=1e-4)
    assert points[2].perplexity == pytest.approx(np.exp(2.5), abs=0.01) and points[2].most_nats == 1.0
    assert points[0].repetition == pytest.approx(0.5 / 3, abs=1e-3) and points[0].tokens == 6
    assert points[0].score_interval[0] <= points[0].score <= points[0].score_interval[1]
    assert at(line.nats, line.scores, 0.3)[0] == pytest.approx(line.scores[0, 3], abs=0.01)


def test_what_was_written_otherwise_is_not_kept(tmp_path: Path):
    path, about = tmp_path / "method.json", {"seed": 7, "method": {"name": "RAD"}}
    written = {"texts": ["a"], "nats": [0.5], "tokens": [3], "most": 0.25}
    path.write_text(json.dumps({"made_from": about, "written": {"1.0": written}}))
    assert _kept(path, about) == {"1.0": MethodTexts(("a",), (0.5,), (3,), 0.25)}
    assert _kept(path, {**about, "seed": 8}) == {} == _kept(tmp_path / "none.json", about)
    path.write_text("{")
    assert _kept(path, about) == {}


def test_the_arms_are_those_of_the_protocol():
    names = ["RAD", "ARM distilled", "ARM on responses", "ARM fused", "random W", "LoRA", "LoRA + ARM"]
    assert [method.name for method in METHODS] == names and len(SLIDERS) == 8 and SLIDERS[0] == 0
    assert replace(METHODS[1], name="ARM fused", fused=True) == METHODS[3] and METHODS[5] == Method("LoRA", None, True)


@pytest.fixture
def trained(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`work` with a reward model and `anchors` with a head, of the tiny base, which takes the shipped one's place."""
    anchors = shutil.copytree(tiny / "anchors", tmp_path / "anchors")
    monkeypatch.setattr("bench.cli.BASE", tiny / "base")
    monkeypatch.setattr("bench.cli.TINY_ANCHORS", anchors)
    bench = HeadTraining(tiny / "base", anchors, None, tmp_path / "work", CONFIG)
    train_teacher(tiny / "base", "humor", None, bench.teacher_folder("humor"), TeacherConfig(minutes=0.02))
    calibrate_teacher("humor", bench)
    train_head("humor", bench, anchors)
    return tmp_path


def test_the_command_measures_all_arms_and_goes_on_where_it_was_cut(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    work, out, plots = trained / "work", trained / "report.json", trained / "plots"
    words = ["--work", str(work), "--texts", "24", "--prompts", "4", "--tokens", "3", "--out", str(out)]
    assert main(["evaluate", "steering", "humor", *words, "--plots", str(plots), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report == json.loads(out.read_text(encoding="utf-8")) and report["humor"]["fluency"] == "the base itself"
    curves = {curve["method"]: curve["points"] for curve in report["humor"]["curves"]}
    assert list(curves) == [method.name for method in METHODS]
    assert len({json.dumps(points[0]) for points in curves.values()}) == 1  # all begin at the base
    for points in curves.values():
        assert [point["slider"] for point in points] == list(SLIDERS) and points[0]["nats"] == 0
        assert points[-1]["nats"] > 0 and all(point["perplexity"] > 1 for point in points)
    assert {path.name for path in plots.iterdir()} == {"humor-divergence.svg", "humor-perplexity.svg"}

    def never(*args):
        raise AssertionError("what was written is written again")

    monkeypatch.setattr("bench.steering_study.methods.Writer.write", never)
    assert main(["evaluate", "steering", "humor", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == report
