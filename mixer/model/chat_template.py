"""A conversation as the token ids that a model was trained to reply to: its own chat template, filled in.

Knows tokenizers and messages; nothing of sessions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from mixer.errors import InvalidValue, Unsupported
from mixer.values.chat import Conversation


def chat_ids(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> list[int]:
    """Token ids of the conversation, up to where the reply begins.

    They are those of `tokenizer.apply_chat_template`, with one exception: control strings such as `<|im_end|>` that
    stand in a message are plain text, so that nobody can speak in another's name.

    Raises:
        Unsupported: the tokenizer has no chat template. InvalidValue: its template refuses the conversation.
    """
    contents = [message.content for message in conversation.messages]
    added: dict[str, int] = tokenizer.get_added_vocab()  # type: ignore[operator]
    controls = [token for token in added if token]
    if not any(control in content for control in controls for content in contents):
        return _ids(tokenizer, _filled(tokenizer, conversation, contents))
    salt = hashlib.sha256("\0".join(contents).encode("utf-8", "replace")).hexdigest()[:16]
    marks = [f"[{salt}:{number}]" for number in range(len(contents))]
    text = _filled(tokenizer, conversation, marks)
    ids: list[int] = []
    for piece in re.split(rf"(\[{salt}:\d+\])", text):
        if piece in marks:
            ids += plain_ids(tokenizer, contents[marks.index(piece)])
        elif piece:
            ids += _ids(tokenizer, piece)
    return ids


def fill_template(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    """The text of a chat template with these messages, up to where the reply begins.

    Qwen3 and others would think aloud first; their templates take `enable_thinking`, and other templates do not see it.
    """
    return str(
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, enable_thinking=False)
    )


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = False) -> list[int]:
    """Token ids of a text in which control strings are plain text.

    Args:
        special: whether to add what the tokenizer puts around every text, such as a token that begins it.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=special, split_special_tokens=True)["input_ids"]  # type: ignore[operator]
    return list(ids)


def _filled(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, contents: Sequence[str]) -> str:
    if not tokenizer.chat_template:
        raise Unsupported(
            "This model has no chat template: it was not trained to reply.", "Let it continue a text instead."
        )
    messages = [
        message.record() | {"content": content}
        for message, content in zip(conversation.messages, contents, strict=True)
    ]
    try:
        return fill_template(tokenizer, messages)
    except (TemplateError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidValue(f"The model's chat template refuses this conversation: {reason}", "Change it.") from error


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has what begins a text
    return list(ids)
