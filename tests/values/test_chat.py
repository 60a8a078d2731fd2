"""Conversations: what they are made of, and what is refused with a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import InvalidValue
from mixer.values.chat import Conversation, Message, prompt_of
from mixer.values.request import FIELDS

texts = st.text(min_size=1).filter(str.strip)
turns = st.lists(st.tuples(texts, texts), max_size=3)


@given(turns, texts, st.none() | st.text())
def test_messages_come_back_as_they_were(turns: list[tuple[str, str]], last: str, system: str | None):
    messages = [] if system is None else [{"role": "system", "content": system}]
    for user, assistant in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    messages.append({"role": "user", "content": last})
    found = Conversation.of(messages)
    assert [message.record() for message in found.messages] == messages
    assert Conversation.of(found) is found and str(found) == last
    assert Conversation.of(last) == Conversation((Message("user", last),))


@given(texts, texts, texts)
def test_a_system_message_is_added_behind_the_one_that_is_there(own: str, more: str, said: str):
    plain = Conversation.of(said).with_system(own)
    assert plain.messages == (Message("system", own), Message("user", said))
    assert plain.with_system(more).messages[0].content == f"{own}\n{more}"


@given(texts, st.text(), turns, texts)
def test_messages_are_replied_to_in_place_of_a_prompt(
    said: str, system: str, turns: list[tuple[str, str]], last: str
) -> None:
    messages = [message for user, reply in turns for message in (Message("user", user), Message("assistant", reply))]
    conversation = Conversation((*messages, Message("user", last)))
    told = conversation.with_system(system) if system.strip() else conversation
    assert prompt_of(said, system=system) == said
    assert prompt_of(said, True, system) == prompt_of("", False, system, Conversation.of(said))
    for reply in (False, True):
        assert prompt_of(" \n", reply, system, conversation) == told
        with pytest.raises(InvalidValue, match="a prompt beside the messages"):
            prompt_of(said, reply, system, conversation)
    with pytest.raises(InvalidValue, match="nothing to reply to"):
        prompt_of(" ", True, system)


json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["role", "content"]), inner),
    max_leaves=12,
)
message = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": json})


@given(json | st.lists(message, max_size=4))
def test_any_json_is_a_conversation_or_is_refused_in_a_sentence(posted: Any) -> None:
    try:
        found = FIELDS["messages"].check(posted)
    except InvalidValue as error:
        assert str(error) and error.hint and len(str(error)) < 400
    else:
        assert found.messages[-1].role == "user" and len(found.messages) == len(posted)
        assert all(message.content.encode() is not None for message in found.messages)  # a tokenizer can read it


def test_halves_of_letters_become_question_marks() -> None:
    assert str(Conversation.of("a\ud800")) == "a?"


@pytest.mark.parametrize(
    "messages",
    [
        *([], "", "  ", None, 5, {"role": "user", "content": "x"}, [5], [{}], [{"role": "user"}]),
        [{"role": "king", "content": "x"}],
        [{"role": "user", "content": 5}],
        [{"role": ["user"], "content": "x"}],
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
        [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}, {"role": "user", "content": "z"}],
        [{"role": "system", "content": "x"}],
        [{"role": "user", "content": "x"}] * 1001,
    ],
)
def test_what_is_no_conversation_is_refused_with_a_hint(messages: Any):
    with pytest.raises(InvalidValue) as caught:
        Conversation.of(messages)
    assert caught.value.hint
