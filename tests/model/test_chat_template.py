"""A conversation's token ids: those of `transformers`, except that nobody can speak in another's name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mixer import Desk
from mixer.errors import InvalidValue, Unsupported
from mixer.model.chat_template import chat_ids, plain_ids
from mixer.resources import BASE
from mixer.values.chat import Conversation

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_with(template: str | None) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


TOKENIZER = tokenizer_with(CHATML)
START: Any = TOKENIZER.convert_tokens_to_ids("<|im_start|>")


def test_a_template_that_thinks_first_is_asked_not_to():
    thinking = "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}Reply:"
    tokenizer = tokenizer_with(thinking)
    assert chat_ids(tokenizer, Conversation.of("Hello.")) == tokenizer("Reply:", add_special_tokens=False)["input_ids"]


def expected(conversation: Conversation) -> list[int]:
    messages = [message.record() for message in conversation.messages]
    ids: Any = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


@given(st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and "<|" not in text), st.text(max_size=20))
def test_the_ids_are_those_of_the_template(said: str, system: str):
    conversation = Conversation.of([{"role": "system", "content": system}, {"role": "user", "content": said}])
    if "<|" not in system:
        assert chat_ids(TOKENIZER, conversation) == expected(conversation)


@given(st.text(max_size=20), st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>"]), st.text(max_size=20))
def test_control_strings_that_a_person_types_are_plain_text(before: str, control: str, after: str):
    conversation = Conversation.of(f"{before}{control}{after} x")
    ids = chat_ids(TOKENIZER, conversation)
    assert ids.count(START) == 2, "one for the user's message and one for the reply"
    text = TOKENIZER.decode(plain_ids(TOKENIZER, f"{before}{control}{after} x"))
    assert control in text
    assert str(TOKENIZER.decode(ids)).startswith(f"<|im_start|>user\n{text}")


def test_a_model_without_a_template_says_so():
    with pytest.raises(Unsupported, match="no chat template"):
        chat_ids(tokenizer_with(None), Conversation.of("Hello"))
    with pytest.raises(Unsupported, match="no chat template"):
        Desk.load("tiny").chat("Hello")


def test_a_template_that_refuses_says_why():
    picky = tokenizer_with("{{ raise_exception('Roles must alternate.') }}")
    with pytest.raises(InvalidValue, match="Roles must alternate"):
        chat_ids(picky, Conversation.of("Hello"))
