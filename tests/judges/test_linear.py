"""The shipped judges: scores are bounded, repeatable and fast, and errors name damaged files."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.judges.linear import FORMAT, Judges, load_judges
from mixer.training.data import ATTRIBUTES, find_pairs, split_pairs

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "judges"
TEXT = 'He stopped at the gate. "Would you be so kind as to help me?" he said, and she laughed.\nThe rain went on.'


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges(FOLDER)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "judges"))


def test_there_is_a_judge_for_every_attribute_and_toxicity(judges: Judges):
    assert judges.names == tuple(sorted([*ATTRIBUTES, "toxicity"]))


@settings(max_examples=60)
@given(text=st.text(max_size=300))
def test_scores_lie_between_0_and_1_and_repeat(text: str):
    judges = load_judges_once()
    scores = judges.scores(text)
    assert all(0 <= score <= 1 for score in scores.values())
    assert judges.scores(text) == scores


def load_judges_once(kept: list[Judges] = []) -> Judges:  # noqa: B006
    if not kept:
        kept.append(load_judges(FOLDER))
    return kept[0]


@pytest.mark.parametrize("text", ["", " ", "\n\n\t"])
def test_an_empty_text_says_nothing(judges: Judges, text: str):
    assert set(judges.scores(text).values()) == {0.5}


def test_score_is_the_same_as_scores(judges: Judges):
    assert judges.score("humor", [TEXT, ""]) == [judges.scores(TEXT)["humor"], 0.5]


def test_the_shipped_judges_say_what_they_always_said(judges: Judges):
    former = {
        "archaic": 0.042499,
        "excitement": 0.001018,
        "formality": 0.000072,
        "humor": 0.943287,
        "poetry": 0.010053,
        "politeness": 0.992907,
        "sentiment": 0.794338,
        "simplicity": 0.999931,
        "toxicity": 0.000220,
    }
    assert judges.scores(TEXT) == pytest.approx(former, abs=1e-5)


@settings(max_examples=60)
@given(text=st.text(max_size=60), endings=st.lists(st.text(max_size=8), max_size=5), times=st.sampled_from([1, 100]))
@example(text="", endings=["", " ", "x"], times=1)
@example(text="A word " * 571, endings=["", " a", " ab", " abc", " abcd", "x" * 3000, "y" * 9000], times=1)
def test_scores_after_a_text_are_the_whole_texts(text: str, endings: list[str], times: int):
    judges, text = load_judges_once(), text * times
    for name in ("politeness", "toxicity"):
        together = judges.scores_after(name, text, endings)
        assert together.shape == (len(endings),) and together.dtype == np.float64
        assert together == pytest.approx(judges.score(name, [text + ending for ending in endings]), abs=1e-9)


@pytest.mark.slow
def test_fifty_endings_are_read_faster_together(judges: Judges):
    text, endings = TEXT * 6, [f" {word}" for word in list(judges.vocabulary.index)[:50]]

    def took(read: Callable[[str], object]) -> float:
        times = []
        for n in range(5):  # another text each time, so that no cache helps
            begin = time.process_time()
            read(f"{n} {text}")
            times.append(time.process_time() - begin)
        return min(times)

    together = took(lambda text: judges.scores_after("politeness", text, endings))
    assert together < took(lambda text: judges.score("politeness", [text + ending for ending in endings])) / 3


class LikesLength:
    def scores_after(self, text: str, endings: Sequence[str]) -> np.ndarray:
        return np.array([1 - 1 / (1 + len(text + ending)) for ending in endings])


def test_an_added_scorer_answers_under_its_name_and_is_not_measured_by_default():
    judges = load_judges(FOLDER)
    judges.add("length", LikesLength())
    assert judges.names[-1] == "length" and "length" not in judges.scores(TEXT)
    assert judges.scores_after("length", "a", ["", "bc"]).tolist() == [0.5, 0.75]
    assert judges.score("length", ["abc"]) == [0.75]


@pytest.mark.parametrize("name", ["", "humor", "nontoxic"])
def test_a_name_is_given_once(name: str):
    with pytest.raises(InvalidValue, match=repr(name)):
        load_judges(FOLDER).add(name, LikesLength())


def test_toxicity_has_labels_for_both_poles(judges: Judges):
    assert judges.labels == {"toxic": ("toxicity", 1.0), "nontoxic": ("toxicity", 0.0)}
    assert Judges({"humor": judges.judges["humor"]}, judges.vocabulary).labels == {}


def test_a_long_text_is_scored_by_its_end(judges: Judges):
    assert judges.scores("x" * 100_000 + TEXT * 40) == judges.scores(TEXT * 40)


@pytest.mark.slow
def test_a_hundred_words_take_about_a_millisecond(judges: Judges):
    text = (TEXT + " ") * 5
    judges.scores(text)
    begin = time.process_time()
    for _ in range(20):
        judges.scores(text)
    assert (time.process_time() - begin) / 20 < 0.01


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_of_a_held_out_pair_the_positive_text_scores_higher(judges: Judges, attribute: str):
    pairs = split_pairs(find_pairs(None, attribute), "test")
    positive = np.array(judges.score(attribute, [pair.positive for pair in pairs]))
    negative = np.array(judges.score(attribute, [pair.negative for pair in pairs]))
    assert (positive > negative).mean() > 0.9
    assert ((positive > 0.5).mean() + (negative < 0.5).mean()) / 2 > 0.75


def test_all_judges_take_less_than_5_MiB():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5 * 2**20


def test_a_text_must_be_text(judges: Judges):
    with pytest.raises(InvalidValue, match="not int"):
        judges.scores(7)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="not bytes"):
        judges.scores_after("humor", TEXT, ["", b"a"])  # type: ignore[list-item]


def test_an_unknown_judge_names_the_nearest(judges: Judges):
    with pytest.raises(UnknownName, match="formality"):
        judges.scores_after("formalty", TEXT, [""])


def test_a_missing_folder_is_a_bad_artifact(tmp_path: Path):
    with pytest.raises(BadArtifact, match="no folder") as error:
        load_judges(tmp_path / "none")
    assert error.value.hint


def break_tensor(path: Path, name: str, value: np.ndarray) -> None:
    save_file(load_file(path) | {name: value}, path, {"format": FORMAT})


DAMAGE = {
    "no header": lambda folder: (folder / "humor.safetensors").write_bytes(b"not a file of tensors"),
    "cut off": lambda folder: (folder / "humor.safetensors").write_bytes(
        (folder / "humor.safetensors").read_bytes()[:-1000]
    ),
    "another shape": lambda folder: break_tensor(folder / "humor.safetensors", "ngrams", np.zeros(3, np.float16)),
    "not finite": lambda folder: break_tensor(folder / "humor.safetensors", "bias", np.full(3, np.nan, np.float32)),
    "another format": lambda folder: save_file(
        load_file(folder / "humor.safetensors"), folder / "humor.safetensors", {"format": "0"}
    ),
    "no words": lambda folder: (folder / "words.json").unlink(),
    "no list of words": lambda folder: (folder / "words.json").write_text(json.dumps({"a": 1})),
    "too few words": lambda folder: (folder / "words.json").write_text(json.dumps(["a"])),
    "no json": lambda folder: (folder / "words.json").write_text("["),
    "no judge": lambda folder: [p.unlink() for p in folder.glob("*.safetensors") if p.stem != "words"],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(copied: Path, damage: str):
    DAMAGE[damage](copied)
    with pytest.raises(BadArtifact) as error:
        load_judges(copied)
    assert "judges" in error.value.message and "train judges" in error.value.hint
