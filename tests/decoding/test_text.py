"""Banned words are found as whole words; each branch reads the prompt that it should."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import Desk
from mixer.decoding.text import Bans, encode_branch
from mixer.errors import InvalidValue
from mixer.formula.bind import Branch

words = st.text("abC d-", min_size=1, max_size=4).filter(str.split)


@given(st.text("abc d.-\n", max_size=30), st.lists(words, min_size=1, max_size=3))
def test_a_found_word_stands_there_alone(text: str, banned: list[str]):
    at = Bans(banned).find(text, ended=True)
    if at is not None:
        assert at == 0 or not text[at - 1].isalnum()
        rest = " ".join(text[at:].lower().split())
        assert any(rest.startswith(" ".join(word.lower().split())) for word in banned)


@given(st.lists(st.sampled_from(["ab", "cd", "the", "x"]), max_size=8), st.sampled_from(["ab", "cd", "q"]))
def test_a_text_of_plain_words_is_searched_word_by_word(text: list[str], word: str):
    at = Bans([word]).find(" ".join(text), ended=True)
    assert at == (len(" ".join([*text[: text.index(word)], ""])) if word in text else None)


@pytest.mark.parametrize(
    ("text", "word", "open_ended", "ended"),
    [
        ("a class act", "ass", None, None),
        ("an ass, indeed", "ass", 3, 3),
        ("an ass", "ass", None, 3),
        ("an ASS.", "ass", 3, 3),
        ("New \n York!", "new york", 0, 0),
        ("x C++ y", "c++", 2, 2),
        ("(ä) und", "ä", 1, 1),
        ("", "a", None, None),
    ],
)
def test_where_words_end(text: str, word: str, open_ended: int | None, ended: int | None):
    assert Bans([word]).find(text, ended=False) == open_ended
    assert Bans([word]).find(text, ended=True) == ended


def test_nothing_is_banned_by_no_words():
    assert Bans([]).find("anything", ended=True) is None


@pytest.fixture(scope="module")
def desk(tiny: Path) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu", native=False)


def test_a_branch_reads_its_prompt_on_a_line_before_the_user_s(desk: Desk):
    model = desk.model

    def text(**branch) -> str:
        return str(model.tokenizer.decode(encode_branch(model, Branch(**branch), "Hi"), skip_special_tokens=True))

    assert text() == "Hi"
    assert text(prompt="You are a pirate.") == "You are a pirate.\nHi"
    assert text(prompt="Dear ") == "Dear Hi" and text(prompt="") == "Hi"
    assert text(prompt="Alone", only=True) == "Alone"
    assert encode_branch(model, Branch(prompt="", only=True), "Hi") == [0], "what stands before every text"
    with pytest.raises(InvalidValue, match="empty"):
        encode_branch(model, Branch(), " ")
    with pytest.raises(InvalidValue, match="tokens"):
        encode_branch(model, Branch(prompt="x" * 200), "Hi")
