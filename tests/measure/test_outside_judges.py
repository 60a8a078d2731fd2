"""Judges for measuring alone: trained from unpaired texts, or plain signs."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from mixer.errors import BadArtifact
from mixer.measure.outside_judges import LEARNED, SIGNS, OutsideJudges
from mixer.training.data import find_pairs
from mixer.training.judge import JudgeConfig
from mixer.values.mix import POLES


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> OutsideJudges:
    data = tmp_path_factory.mktemp("data")
    for name in LEARNED:
        home = data / "attributes" / name
        home.mkdir(parents=True)
        for pole in POLES:
            with lzma.open(home / f"{pole}.txt.xz", "wt", encoding="utf-8") as file:
                file.writelines(getattr(pair, pole).replace("\n", " ") + "\n" for pair in find_pairs(None, name))
    return OutsideJudges(data, JudgeConfig(epochs=3, folds=2))


def test_they_tell_unseen_texts_apart(judges: OutsideJudges):
    assert judges.accuracy.keys() == set(LEARNED) and sum(judges.accuracy.values()) > 4 * 0.7, judges.accuracy
    scores = judges("Thank you so much, you are very kind.")
    assert scores.keys() == {*LEARNED, *SIGNS} and all(0 <= score <= 1 for score in scores.values())


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("poetry", "The sea is wide,\nthe sea is deep.", "The sea is wide, the sea is deep.\n"),
        ("excitement", "We won! We won!", "We won."),
        ("archaic", "Thou hast my thanks.", "You have my thanks; thou art said no more."),
        ("archaic", "He cometh unto the gate.", "Elizabeth shows Kenneth her teeth."),
    ],
)
def test_signs(name: str, yes: str, no: str):
    assert (SIGNS[name](yes), SIGNS[name](no)) == (1.0, 0.0)


def test_a_folder_without_texts_is_named(tmp_path: Path):
    with pytest.raises(BadArtifact, match="no texts of formality"):
        OutsideJudges(tmp_path)
