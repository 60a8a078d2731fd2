"""Laws of the judges that ship: bounded, repeatable, fast, and clear about damaged files."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.features import BUCKETS, features
from mixer.judges import FORMAT, Judges, load_judges
from mixer.training.data import ATTRIBUTES, find_pairs, split_pairs

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "judges"
TEXT = 'He stopped at the gate. "Would you be so kind as to help me?" he said, and she laughed.\nThe rain went on.'


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges(FOLDER)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "judges"))


def test_there_is_a_judge_for_every_attribute_and_toxicity(judges: Judges):
    assert judges.names == tuple(sorted([*ATTRIBUTES, "toxicity"]))


@settings(deadline=None, max_examples=60)
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


def test_features_are_the_same_on_every_machine(judges: Judges):
    seen = features(TEXT, judges.vocabulary)
    assert seen.buckets.min() >= 0 and seen.buckets.max() < 2 * BUCKETS
    words = seen.buckets < BUCKETS
    assert np.isclose((seen.values[words] ** 2).sum(), 1) and np.isclose((seen.values[~words] ** 2).sum(), 1)
    assert (len(seen.buckets), int(seen.buckets.sum())) == (433, 19272356)


def test_a_long_text_is_scored_by_its_end(judges: Judges):
    assert judges.scores("x" * 100_000 + TEXT * 40) == judges.scores(TEXT * 40)


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


def test_an_unknown_judge_names_the_nearest(judges: Judges):
    with pytest.raises(UnknownName, match="formality"):
        judges.score("formalty", [TEXT])


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
