"""Features of linear judges: the common beginning of texts is counted once, which does not change the features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixer.judges.features import BUCKETS, LONGEST, STEP, SURFACE, Words, features, features_after, reading_start
from mixer.judges.linear import load_words

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "judges"
WEIGHTS = np.random.default_rng(0).normal(size=2 * BUCKETS)
TEXT = 'He stopped at the gate. "Would you be so kind as to help me?" he said, and she laughed.\nThe rain went on.'

# Strings that might extend across the border where the common beginning ends.
SCRAPS = [
    " ", "  ", "\n", "\n\n", "\t", "\x1c", "\u2028", "\u00a0", "a", "I", "word", "Word", "don't", "don", "'t", "’t",
    "'", "’", "“", "”", '"', ".", "...", "..", "!", "?", ".)", ";", ",", "-", " - ", " -", "- ", "--", "—", "7", "_",
    "é", "Σ", "ΑΣ", "İ", "ß", "K", "日本", "🙂", "\u0301", "\ufffd", "\ud83d", "nation", "nations", "goodness",
]  # fmt: skip
scraps = st.lists(st.sampled_from(SCRAPS), max_size=12).map("".join)
texts = st.one_of(scraps, st.text(max_size=40), st.tuples(scraps, st.text(max_size=40), scraps).map("".join))


@pytest.fixture(scope="module")
def vocabulary() -> Words:
    return load_words(FOLDER)


def load_once(kept: list[Words] = []) -> Words:  # noqa: B006
    if not kept:
        kept.append(load_words(FOLDER))
    return kept[0]


@settings(max_examples=300)
@given(text=texts, endings=st.lists(texts, min_size=1, max_size=6))
@example(text="one - ", endings=["- two", "two"])
@example(text="ΟΔΟΣ", endings=["", "Α", " Α", "'Α"])
@example(text="The end.", endings=["", "\n", ")", '"', " Then", "..", "5"])
@example(text="He said don", endings=["", "'t", "’t", "'", "e"])
@example(text="a\n", endings=["", "\n", "B", " B"])
def test_endings_read_after_a_text_are_the_whole_texts(text: str, endings: list[str]):
    vocabulary = load_once()
    together = features_after(text, tuple(endings), vocabulary)
    assert together.surface.shape == (len(endings), len(SURFACE))
    for row, ending in enumerate(endings):
        alone = features(text + ending, vocabulary)
        assert together.weigh(WEIGHTS)[row] == pytest.approx(alone.weigh(WEIGHTS)[0], abs=1e-9)
        np.testing.assert_allclose(together.surface[row], alone.surface[0], atol=1e-12)
        np.testing.assert_allclose(together.words[row], alone.words[0], atol=1e-9)


@settings(max_examples=60)
@given(text=texts)
def test_values_of_each_group_have_norm_1(text: str):
    seen = features(text, load_once())
    words = seen.buckets < BUCKETS
    assert (seen.values[~words] ** 2).sum() == pytest.approx(1)
    assert (seen.values[words] ** 2).sum() == pytest.approx(float(words.any()))


def test_features_are_the_same_on_every_machine(vocabulary: Words):
    seen = features(TEXT, vocabulary)
    assert seen.buckets.min() >= 0 and seen.buckets.max() < 2 * BUCKETS
    assert (len(seen.buckets), int(seen.buckets.sum())) == (433, 19272356)


def test_measures_of_the_surface_are_what_they_say(vocabulary: Words):
    text = "I don't like it; YOU said: wonderful things!\n\nno"
    seen = dict(zip(SURFACE, features(text, vocabulary).surface[0], strict=True))
    assert seen["word length"] == pytest.approx((1 + 5 + 4 + 2 + 3 + 4 + 9 + 6 + 2) / 9)
    assert seen["line breaks a word"] == pytest.approx(10 / 9)
    assert seen["lines that begin with a capital"] == 0.5
    assert seen["semicolons and colons"] == pytest.approx(40 / 9)
    assert seen["contractions"] == pytest.approx(10 / 9)
    assert seen["capitals"] == pytest.approx(20 * 4 / len(text))
    assert seen["first and second person"] == pytest.approx(20 / 9)
    assert seen["log words a sentence"] == pytest.approx(np.log(9))


def test_a_word_is_averaged_by_the_root_of_how_many_are_known(vocabulary: Words):
    both = vocabulary.vectors[[vocabulary.index["rain"], vocabulary.index["gate"]]].sum(0)
    np.testing.assert_allclose(features("rain, gate xqzzq", vocabulary).words[0], both / np.sqrt(2), rtol=1e-6)


@given(length=st.integers(0, 10 * LONGEST))
def test_at_most_so_many_characters_are_read_and_nearly_as_many(length: int):
    read = length - reading_start(length)
    assert read == length if length <= LONGEST else LONGEST - STEP < read <= LONGEST
