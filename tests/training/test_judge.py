"""Laws of judge training, on toy sets that are small enough to train on in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.judges.linear import FORMAT, load_judges, load_words
from mixer.training.data import Pair
from mixer.training.judge import JudgeConfig, JudgeExample, examples, measures, platt, train_judge, train_on, window
from mixer.training.word_vectors import train_words

THINGS = ["the boat", "a garden", "her letter", "our train", "the old dog", "this soup", "his shop", "the long road"]
GOOD, BAD = ["was lovely", "made us glad", "shone brightly"], ["was dreadful", "made us weep", "fell apart"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    texts = [f"{thing} {end} and {end} again" for thing in THINGS for end in GOOD + BAD]
    assert train_words(texts, folder, vocabulary=40, contexts=30, width=8) == len(set(" ".join(texts).split()))
    return folder


def test_word_vectors_are_loaded_as_written_and_rare_words_weigh_more(words: Path):
    vocabulary = load_words(words)
    lengths = np.linalg.norm(vocabulary.vectors, axis=1)
    assert vocabulary.vectors.shape == (len(vocabulary.index), 8)
    assert lengths[vocabulary.index["letter"]] > lengths[vocabulary.index["and"]] > 0


def test_no_text_gives_no_words(tmp_path: Path):
    with pytest.raises(InvalidValue):
        train_words([], tmp_path)


def test_a_judge_separates_a_toy_set_that_it_has_not_seen(words: Path, tmp_path: Path):
    def texts(things: list[str]) -> list[JudgeExample]:
        return [
            JudgeExample(f"{thing} {end}", label, thing, 1.0)
            for thing in things
            for label, ends in enumerate((BAD, GOOD))
            for end in ends
        ]

    tensors = train_on(texts(THINGS[:6]), load_words(words), JudgeConfig(epochs=20, rows=64))
    for name in ("words.json", "words.safetensors"):
        (tmp_path / name).write_bytes((words / name).read_bytes())
    save_file(tensors, tmp_path / "toy.safetensors", {"format": FORMAT})
    judges = load_judges(tmp_path)
    for example in texts(THINGS[6:]):
        assert (judges.scores(example.text)["toy"] > 0.5) == bool(example.label)
    assert train_on(texts(THINGS[:6]), load_words(words), JudgeConfig(epochs=20, rows=64))["bias"] == pytest.approx(
        tensors["bias"]
    )


def test_both_poles_weigh_the_same():
    pair = Pair("The boat", "The boat was lovely and shone.", "The boat was dreadful and leaked.")
    unpaired = {"negative": ["one two three"] * 5, "positive": ["four five six"] * 50}
    found = examples("toy", [pair], unpaired, JudgeConfig())
    weights = [sum(e.weight for e in found if e.label == label) for label in (0, 1)]
    assert weights[0] == pytest.approx(weights[1])


@given(st.text(alphabet="ab \n", max_size=200), st.integers(0, 99))
def test_a_window_is_part_of_its_text(text: str, seed: int):
    assert window(text, np.random.default_rng(seed)) in text


@given(st.floats(0.3, 3), st.floats(-2, 2))
def test_platt_scaling_undoes_a_wrong_scale(slope: float, offset: float):
    truth = np.linspace(-4, 4, 81)
    chances = 1 / (1 + np.exp(-truth))
    found = platt(
        np.tile((truth - offset) / slope, 2), np.repeat([1.0, 0.0], 81), np.concatenate([chances, 1 - chances])
    )
    assert found == pytest.approx((slope, offset), abs=0.05)


def test_measures_of_a_perfect_and_a_blind_judge():
    assert measures(np.ones(5), np.zeros(5)) == {"accuracy": 1.0, "auc": 1.0, "calibration_error": 0.0, "n": 10}
    assert measures(np.full(5, 0.5), np.full(5, 0.5))["auc"] == 0.5


def test_an_unknown_judge_is_refused(tmp_path: Path):
    with pytest.raises(UnknownName, match="humor"):
        train_judge("humour", None, tmp_path)


def test_toxicity_cannot_be_learnt_from_pairs(tmp_path: Path):
    with pytest.raises(BadArtifact, match="toxicity"):
        train_judge("toxicity", None, tmp_path)


@pytest.mark.slow
def test_the_shipped_pairs_are_enough_to_train_a_judge(tmp_path: Path):
    report = train_judge("formality", None, tmp_path, JudgeConfig(epochs=4, windows=2))
    assert report["pairs"]["accuracy"] > 0.9 and "unpaired" not in report
