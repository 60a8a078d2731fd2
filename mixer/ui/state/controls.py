"""What the values of the page's controls mean, as a client posts them.

Trusts nothing: any client can post anything. Knows neither Gradio nor who is streaming.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from mixer.errors import InvalidValue, UnknownName
from mixer.values.bounds import bounded
from mixer.values.sampling import SamplingParams
from mixer.values.steering import BUDGET, REST, Steering

LIMIT = 1.5  # beyond 1 is extrapolation, which the page marks as such
STEP = 0.05
MOST_TOKENS = 1000
FASTEST = 1000.0  # tokens a second that may be asked for
DECOUPLED = "decoupled"  # the mark after the sliders' words
MODES: tuple[Literal["keep", "refill", "restart"], ...] = ("keep", "refill", "restart")
MAX_SEQ = 2**53 - 1  # the largest whole number that a browser holds exactly


@dataclass(frozen=True)
class DeckValue:
    """Where all sliders stood at one moment.

    Attributes:
        seq: counts the moves of one page, so that an older event never overwrites a newer one.
        positions: attribute name -> position in [-LIMIT, LIMIT]; sliders at rest are left out.
        steering: the reward sliders, and what limits them.
        decouple: whether the positions are levels asked for, see `decouple`.
    """

    seq: int = 0
    positions: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    steering: Steering = REST
    decouple: bool = False


def read_value(value: object, names: Collection[str], heads: Collection[str] = ()) -> DeckValue:
    """What a client posted, checked: `{"seq": int, "positions": {name: number}}`, where wanted `"decouple": true`, and
    what `read_steering` reads.

    Nothing at all is a deck at rest.

    Raises:
        UnknownName: a position names no attribute in `names`, or a reward none in `heads`.
        InvalidValue: anything else is not as the deck sends it.
    """
    if value is None or value == "":
        return DeckValue()
    if not isinstance(value, Mapping):
        raise InvalidValue("The deck's value is not an object.", "Send {seq, positions}.")
    positions = read_positions(value.get("positions", {}), names)
    decouple = read_flag("Whether the sliders are decoupled", value.get("decouple", False))
    return DeckValue(_seq(value.get("seq", 0)), positions, read_steering(value, heads), decouple)


def read_positions(positions: object, names: Collection[str]) -> Mapping[str, float]:
    """Slider positions as a client sends them, checked as in `read_value`."""
    if not isinstance(positions, Mapping):
        raise InvalidValue("The slider positions are not an object.", "Send {name: position}.")
    result: dict[str, float] = {}
    for name, position in positions.items():
        if name not in names:
            raise UnknownName("attribute", str(name)[:80], names)
        number = _position(name, position)
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
    whole = read_flag("Whether the budget counts the sliders", posted.get("whole", False))
    budget: Any = posted.get("budget", BUDGET if any(found) or whole else None)
    return Steering(*found, budget=budget, whole=whole)


def read_flag(what: str, value: object) -> bool:
    """True or false, as a client sends it.

    Raises:
        InvalidValue: it is neither.
    """
    if not isinstance(value, bool):
        raise InvalidValue(f"{what} is not true or false.", "Leave it out.")
    return value


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


def options(max_new_tokens: object, temperature: object, seed: object) -> SamplingParams:
    """Sampling options as a client sends them; a seed of None draws a fresh one.

    Raises:
        InvalidValue: one of them is no number or out of range.
    """
    tokens = bounded("The number of tokens", max_new_tokens, 1, MOST_TOKENS)
    if seed is None:
        seed = secrets.randbelow(10_000)
    number = bounded("The seed", seed, 0, 2**53)
    if tokens != int(tokens) or number != int(number):
        raise InvalidValue("The seed and the number of tokens are whole numbers.", "Leave the fraction away.")
    return SamplingParams(
        max_new_tokens=int(tokens), temperature=bounded("The temperature", temperature, 0.0, 2.0), seed=int(number)
    )


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


def _position(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise InvalidValue(f"The position of {name} is not a number.", f"Give a number from -{LIMIT} to {LIMIT}.")
    if not -LIMIT <= value <= LIMIT:
        raise InvalidValue(f"The position of {name} is out of range.", f"Give a number from -{LIMIT} to {LIMIT}.")
    return float(value)


def fewest_tokens(tokens: int) -> int:
    """Fewest tokens of a text on the page: one that ends after a sentence leaves nothing to steer."""
    return tokens // 2
