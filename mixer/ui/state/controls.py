"""Reads the values of the page's controls as a client posts them, and checks them: any client can post anything.

Knows neither Gradio nor which browser session posted.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mixer.errors import InvalidValue, UnknownName
from mixer.values.chat import Prompt, prompt_of
from mixer.values.request import FIELDS, read_sampling
from mixer.values.sampling import SamplingParams
from mixer.values.steering import REST, Steering

LIMIT = FIELDS["positions"].bounds(served=True)[1]  # beyond 1 is extrapolation, which the page marks as such
REWARD_LIMIT = 1.0  # of the page's reward sliders; the API takes what `Steering` takes
STEP = 0.05
MOST_TOKENS = int(FIELDS["tokens"].bounds(served=True)[1])
DECOUPLED = "decoupled"  # the mark after the sliders in `describe`
MAX_SEQ = 2**53 - 1  # the largest whole number that a browser holds exactly


@dataclass(frozen=True)
class DeckValue:
    """Where all sliders stood at one moment.

    Attributes:
        seq: counts the moves of one page, so that an older event never overwrites a newer one.
        positions: attribute name -> position in [-LIMIT, LIMIT]; sliders at rest are left out.
        steering: the reward sliders, and what limits them.
        decouple: whether the positions are levels of the scores instead, see `decouple`.
    """

    seq: int = 0
    positions: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    steering: Steering = REST
    decouple: bool = False

    def json(self) -> dict[str, Any]:
        """The value as a client posts it; `read_value` reads it back."""
        record = self.steering.record()
        return {"seq": self.seq, "positions": dict(self.positions), **record, "decouple": self.decouple}


def read_value(value: object, names: Collection[str], heads: Collection[str] = ()) -> DeckValue:
    """The deck's value as a client posts it: `{"seq": int, "positions": {name: number}, "decouple": bool}` and what
    `read_steering` reads. All of these may be missing; None and an empty text are a deck at rest.

    Raises:
        UnknownName: a position names no attribute in `names`, or a reward none in `heads`.
        InvalidValue: anything else is not as the deck sends it.
    """
    if value is None or value == "":
        return DeckValue()
    if not isinstance(value, Mapping):
        raise InvalidValue("The deck's value is not an object.", "Send {seq, positions}.")
    positions = read_positions(value.get("positions", {}), names)
    decouple = FIELDS["decouple"].check(value.get("decouple", False))
    return DeckValue(_seq(value.get("seq", 0)), positions, read_steering(value, heads), decouple)


def read_positions(positions: object, names: Collection[str]) -> Mapping[str, float]:
    """Slider positions as a client sends them, checked as in `read_value`."""
    if not isinstance(positions, Mapping):
        raise InvalidValue("The slider positions are not an object.", "Send {name: position}.")
    result: dict[str, float] = {}
    for name, position in positions.items():
        if name not in names:
            raise UnknownName("attribute", str(name)[:80], names)
        number = FIELDS["positions"].check(position, True, f"The position of {name}")
        if number != 0.0:
            result[name] = number
    return MappingProxyType(result)


def read_steering(posted: Mapping[str, object], heads: Collection[str]) -> Steering:
    """How rewards are to steer, as a client sends it: `{"rewards": {head: position}, "levels": {head: level}, "budget":
    nats, "whole": bool}`.

    All of these may be missing. A budget of None is no limit; a missing one is the default where anything steers.

    Raises:
        UnknownName: there is no such reward in `heads`. InvalidValue: anything else is not as the deck sends it.
    """
    found = []
    for part in ("rewards", "levels"):
        numbers = posted.get(part, {})
        if not isinstance(numbers, Mapping):
            raise InvalidValue(f"The {part} are not an object.", "Send {name: number}.")
        for name in numbers:
            if name not in heads:
                raise UnknownName("reward", str(name)[:80], heads)
        found.append(numbers)
    whole = FIELDS["whole"].check(posted.get("whole", FIELDS["whole"].default))
    budget: Any = posted.get("budget", FIELDS["budget"].default if any(found) or whole else None)
    return Steering(*found, budget=budget, whole=whole)


@dataclass(frozen=True)
class BoxValue:
    """What stood in the formula box at one moment.

    Attributes:
        typed: whether a person wrote it and the sliders have not followed it yet.
    """

    text: str = "sliders"
    typed: bool = False


def read_box(value: object) -> BoxValue:
    """What a client posted, checked: `{"text": str, "typed": bool}`; nothing at all is the default formula.

    Raises:
        InvalidValue: it is not as the box sends it.
    """
    if value is None or value == "":
        return BoxValue()
    if not isinstance(value, Mapping):
        raise InvalidValue("The formula's value is not an object.", "Send {text, typed}.")
    typed = value.get("typed", False)
    if not isinstance(typed, bool):
        raise InvalidValue("Whether the formula was typed is not true or false.", "Leave it out.")
    return BoxValue(read_text("The formula", value.get("text")), typed)


def read_question(posted: object, names: Collection[str]) -> tuple[int, str, Mapping[str, float] | None]:
    """A question about a formula: `{"seq": int, "text": str}` and, where the sliders were moved, `"positions"`.

    Raises:
        UnknownName, InvalidValue: it is not as the box asks it.
    """
    if not isinstance(posted, Mapping):
        raise InvalidValue("The question is not an object.", "Send {seq, text, positions}.")
    positions = posted.get("positions")
    return (
        _seq(posted.get("seq", 0)),
        read_text("The formula", posted.get("text")),
        None if positions is None else read_positions(positions, names),
    )


def read_prompt(prompt: object, reply: object, system: object, messages: object = None) -> Prompt:
    """What is written on from: the prompt, the conversation that it ends, or the messages; see `prompt_of`.

    Raises:
        InvalidValue: one of them is not as it should be; there are a prompt and messages; or the prompt is to be
            replied to, and is blank.
    """
    text, told = read_text("The prompt", prompt), read_text("The system message", system)
    found = None if messages is None else FIELDS["messages"].check(messages, True)
    return prompt_of(text, FIELDS["reply"].check(reply, True), told, found)


def read_text(what: str, value: object, most: int | None = None) -> str:
    """A text as a client sends it; halves of letters, which JSON can hold and no answer can, become question marks.

    Raises:
        InvalidValue: `what`, the name of the text in a sentence, is no text, or longer than `most` characters.
    """
    if not isinstance(value, str):
        raise InvalidValue(f"{what} is not a text.", "Send it as a string.")
    if most is not None and len(value) > most:
        raise InvalidValue(f"{what} has {len(value):,} characters, and {most:,} is the most.", "Shorten it.")
    return value.encode("utf-8", "replace").decode()


def options(
    max_new_tokens: object, temperature: object, seed: object, more: Mapping[str, object] = MappingProxyType({})
) -> SamplingParams:
    """Sampling options as a client sends them; a seed of None or -1 draws a fresh one.

    Args:
        more: further arguments of `SamplingParams`. One that is None is as by default.

    Raises:
        InvalidValue: one of them is not of its type or out of range.
    """
    drawn = FIELDS["seed"].check(secrets.randbelow(10_000) if seed is None or seed == -1 else seed, True)
    # A value that is missing is refused here; `read_sampling` takes the default for it.
    given = {
        "max_new_tokens": FIELDS["tokens"].check(max_new_tokens, True),
        "temperature": FIELDS["temperature"].check(temperature, True),
        "seed": drawn,
    }
    return read_sampling(given | {name: value for name, value in more.items() if value is not None}, True)


def describe(positions: Mapping[str, float], steering: Steering = REST, decouple: bool = False) -> str:
    """All sliders in a few words, such as `formality +0.80 · reward humor −0.40 · toxicity to 0.10`; `base` at rest."""
    parts = [_signed(name, position) for name, position in positions.items()]
    parts += [DECOUPLED] * (decouple and bool(parts))
    parts += [_signed(f"reward {name}", position) for name, position in steering.positions.items()]
    parts += [f"{name} to {level:.2f}" for name, level in steering.levels.items()]
    return " · ".join(parts) or "base"


def _signed(name: str, position: float) -> str:
    return f"{name} {'−' if position < 0 else '+'}{abs(position):.2f}"


def _seq(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEQ:
        raise InvalidValue("The deck's sequence number is not a whole number.", "Count up from 0.")
    return value
