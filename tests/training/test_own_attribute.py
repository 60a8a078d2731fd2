"""An attribute of one's own: one file gives a slider with a meter, and the errors say what to mend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from mixer import Desk
from mixer.cli import main
from mixer.errors import BadArtifact, InvalidValue
from mixer.judges.features import Words
from mixer.judges.linear import OWN_JUDGE, load_words, save_own_judge
from mixer.resources import JUDGES
from mixer.training.data import attributes_with_pairs, find_pairs
from mixer.training.own_attribute import read_own_attribute
from tests.training.test_pair_file import pair, write

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mine") / "cheer.jsonl"
    records = [
        pair(
            i,
            positive=f"On day {i} the cook laughed and sang a bright and merry song.",
            negative=f"On day {i} the cook wept and moaned a dark and dreary word.",
        )
        for i in range(100)
    ]
    path.with_suffix(".yaml").write_text("labels: {negative: gloomy, positive: cheery}\ndescription: Mood.\n")
    return write(path, records)


@pytest.fixture(scope="module")
def trained(tiny: Path, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one command makes."""
    out = tmp_path_factory.mktemp("out")
    words = ["train", "attribute", str(file), "--base", str(tiny / "base"), "--out", str(out), "--steps", "2"]
    assert main(words) == 0
    return out


def test_one_command_gives_a_slider_with_labels_and_a_meter(trained: Path, tiny: Path):
    desk = Desk.load(tiny / "base", trained, device="cpu")
    assert list(desk.attributes) == ["cheer"] and desk.attributes["cheer"].labels == ("gloomy", "cheery")
    assert desk.anchors == ("cheer.negative", "cheer.positive") and desk.attributes["cheer"].description == "Mood."
    high, low = (desk.scores(f"The cook {how} word.")["cheer"] for how in ("sang a merry", "moaned a dreary"))
    assert high > 0.8 and low < 0.2 and "formality" in desk.scores("A text.")
    assert "cheer" in desk.catalog.vocabulary.judges


def test_the_folder_is_a_data_folder_of_its_own(trained: Path, file: Path):
    assert "cheer" in attributes_with_pairs(trained) and "cheer" not in attributes_with_pairs(None)
    assert tuple(find_pairs(trained, "cheer")) == read_own_attribute(file).file.pairs


def test_what_is_trained_is_kept_and_the_report_says_how_to_open_it(trained: Path, tiny: Path, file: Path, capsys):
    before = (trained / "cheer" / "positive" / "adapter_model.safetensors").stat().st_mtime_ns
    words = ["train", "attribute", str(file), "--base", str(tiny / "base"), "--out", str(trained), "--steps", "2"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (trained / "cheer" / "positive" / "adapter_model.safetensors").stat().st_mtime_ns == before
    assert report["judge"]["accuracy"] > 0.9 and report["judge"]["pairs"] + report["judge"]["n"] // 2 == 100
    assert report["open"] == f"python -m mixer page --base {tiny / 'base'} --anchors {trained}"


def test_a_judge_of_other_word_vectors_or_a_damaged_one_is_left_out(trained: Path, tiny: Path, tmp_path: Path):
    copied = shutil.copytree(trained, tmp_path / "copied")
    vocabulary = load_words(JUDGES)
    (copied / "cheer" / OWN_JUDGE).write_bytes(b"nothing")
    desk = Desk.load(tiny / "base", copied, device="cpu", strict=False)
    assert "cheer" not in desk.scores("A text.") and "train attribute" in " ".join(desk.problems)
    tensors = load_file(trained / "cheer" / OWN_JUDGE)
    save_own_judge(tensors, copied / "cheer", Words(vocabulary.index, 2 * vocabulary.vectors))
    with pytest.raises(BadArtifact, match="other word vectors"):
        Desk.load(tiny / "base", copied, device="cpu")


def test_names_and_labels_are_checked(file: Path, tmp_path: Path):
    assert read_own_attribute(file, "joy", ("low", "high")).labels == ("low", "high")
    plain = tmp_path / "cheer.jsonl"
    plain.write_bytes(file.read_bytes())
    assert read_own_attribute(plain).labels == ("less cheer", "more cheer")
    for name in ("two words", "", "only", "toxicity", "a/b"):
        with pytest.raises(InvalidValue, match="cannot be called"):
            read_own_attribute(file, name)
    with pytest.raises(InvalidValue, match="different words"):
        read_own_attribute(file, None, ("high", "High"))
    plain.with_suffix(".yaml").write_text("labels: [a, b]")
    with pytest.raises(BadArtifact, match=r"cheer\.yaml is not a description"):
        read_own_attribute(plain)


def test_the_example_is_sound():
    own = read_own_attribute(ROOT / "examples" / "certainty.jsonl")
    assert len(own.file.pairs) == 60 and own.labels == ("doubtful", "certain") and len(own.file.warnings) == 1
