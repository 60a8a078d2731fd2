"""A conversation at the door for programs: what is taken, and what is refused with a sentence."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import Desk
from mixer.errors import InvalidValue
from mixer.ui.api import generate
from mixer.ui.state.controls import read_prompt
from mixer.values.chat import Conversation

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip)
ASKED = [{"role": "user", "content": "Sing."}]


@given(st.lists(TEXTS, min_size=1, max_size=4), st.none() | TEXTS, TEXTS)
def test_messages_are_the_conversation_that_python_takes(said: list[str], system: str | None, more: str):
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(said)]
    turns += [{"role": "user", "content": "And now?"}] if len(said) % 2 == 0 else []
    told = [] if system is None else [{"role": "system", "content": system}]
    assert read_prompt("", False, "", told + turns) == Conversation.of(told + turns)
    behind = more if system is None else f"{system}\n{more}"
    assert read_prompt(" ", False, more, told + turns) == Conversation.of(
        [{"role": "system", "content": behind}, *turns]
    )


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
    max_leaves=8,
)


@given(ANYTHING.filter(lambda value: value is not None))
def test_whatever_is_posted_is_a_conversation_or_a_sentence(posted: Any):
    try:
        assert isinstance(read_prompt("", True, "", posted), Conversation)
    except InvalidValue as error:
        assert error.hint


def test_halves_of_letters_become_question_marks():
    conversation = read_prompt("", False, "", [{"role": "user", "content": "a\ud800"}])
    assert str(conversation) == "a?"


def test_the_endpoint_takes_them_and_refuses_with_a_sentence():
    asked = []
    write = generate(Desk.load(), lambda prompt, *_: str(asked.append(prompt)))
    write("", messages=ASKED)
    write("", system="Be kind.", messages=ASKED)
    assert asked == [Conversation.of(ASKED), Conversation.asking("Sing.", "Be kind.")]
    with pytest.raises(gr.Error, match="both a prompt and messages"):
        write("Sing", messages=ASKED)
    with pytest.raises(gr.Error, match="no list"):
        write("", messages="Sing.")
