"""Conversations: messages that a model's chat template turns into a prompt. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from mixer.errors import InvalidValue

Role = Literal["system", "user", "assistant"]
HINT = 'Give messages such as {"role": "user", "content": "Write a note to my neighbour."}.'
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

    @classmethod
    def asking(cls, text: str, system: str = "") -> Conversation:
        """A conversation in which the user says one thing, after a system message if that is not blank.

        Raises:
            InvalidValue: the text is blank.
        """
        asked = cls.of(text)
        return asked.with_system(system) if system.strip() else asked

    def saying(self, text: str) -> Conversation:
        """The same conversation, with this in place of what the user said last.

        Raises:
            InvalidValue: the text is blank.
        """
        return Conversation((*self.messages[:-1], *self.of(text).messages))

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


def _message(number: int, value: object) -> Message:
    role = value.get("role") if isinstance(value, Mapping) else None
    content = value.get("content") if isinstance(value, Mapping) else None
    roles: dict[str, Role] = {one: one for one in get_args(Role)}
    if not isinstance(role, str) or role not in roles:
        raise InvalidValue(f"Message {number} has no role out of {', '.join(get_args(Role))}.", HINT)
    if not isinstance(content, str):
        raise InvalidValue(f"The content of message {number} is no text.", HINT)
    return Message(roles[role], content)
