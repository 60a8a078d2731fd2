"""Conversations: what they are made of, and what is refused with a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import InvalidValue
from mixer.values.chat import Conversation, Message

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
