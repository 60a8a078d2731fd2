"""Conversations: messages that a model's chat template turns into a prompt. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from mixer.errors import InvalidValue

Role = Literal["system", "user", "assistant"]
HINT = 'Give messages such as [{"role": "user", "content": "Write a note to my neighbour."}].'
MOST_MESSAGES = 1000


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str

    def record(self) -> dict[str, str]:
        """The message as chat templates and APIs have it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Conversation:
    """Messages to reply to. It can stand wherever a prompt can; what is written is the assistant's next message."""

    messages: tuple[Message, ...]

    @classmethod
    def of(cls, messages: Messages) -> Conversation:
        """A conversation from messages with `role` and `content`; a text alone is what the user says.

        Raises:
            InvalidValue: they are no messages, or the last one is not the user's.
        """
        if isinstance(messages, Conversation):
            return messages
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if isinstance(messages, Mapping) or not isinstance(messages, Iterable):
            raise InvalidValue("These are no messages.", HINT)
        found = tuple(_message(number, one) for number, one in enumerate(messages, start=1))
        if not found or len(found) > MOST_MESSAGES:
            raise InvalidValue(f"A conversation has 1 to {MOST_MESSAGES:,} messages, not {len(found):,}.", HINT)
        if any(message.role == "system" for message in found[1:]):
            raise InvalidValue("A system message stands at the beginning alone.", "Put it first.")
        if found[-1].role != "user" or not found[-1].content.strip():
            raise InvalidValue("There is nothing to reply to: the last message is not the user's, or empty.", HINT)
        return cls(found)

    def with_system(self, text: str) -> Conversation:
        """The same conversation with this system message, behind the one that it has."""
        first, *rest = self.messages
        if first.role == "system":
            return Conversation((Message("system", f"{first.content}\n{text}"), *rest))
        return Conversation((Message("system", text), *self.messages))

    def __str__(self) -> str:
        """What the user said last."""
        return self.messages[-1].content


Prompt = str | Conversation
Messages = Iterable[Mapping[str, str]] | str | Conversation


def prompt_of(text: str, reply: bool = False, system: str = "", messages: Conversation | None = None) -> Prompt:
    """What is written on from: `messages`, or else the text, as the beginning of a text or as what the user says.

    Args:
        reply: whether to reply to the text. Messages are always replied to.
        system: a system message, behind the one that the messages have; without a conversation it has no meaning.

    Raises:
        InvalidValue: there are a text and messages, or the text is to be replied to, and is blank.
    """
    if messages is not None and text.strip():
        raise InvalidValue("There is a prompt beside the messages.", "Put it into the last message.")
    if messages is None and not reply:
        return text
    found = messages or Conversation.of(text)
    return found.with_system(system) if system.strip() else found


def _message(number: int, value: object) -> Message:
    role = value.get("role") if isinstance(value, Mapping) else None
    content = value.get("content") if isinstance(value, Mapping) else None
    roles: dict[str, Role] = {one: one for one in get_args(Role)}
    if not isinstance(role, str) or role not in roles:
        raise InvalidValue(f"Message {number} has no role out of {', '.join(get_args(Role))}.", HINT)
    if not isinstance(content, str):
        raise InvalidValue(f"The content of message {number} is no text.", HINT)
    # Halves of letters, which JSON can hold and no tokenizer can read, become question marks.
    return Message(roles[role], content.encode("utf-8", "replace").decode())
