"""What the deck's and the formula box's values mean, as a client posts them.

Trusts nothing: any client can post anything. Knows neither Gradio nor who is streaming.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mixer.errors import InvalidValue, UnknownName

LIMIT = 1.5  # beyond 1 is extrapolation, which the page marks as such
STEP = 0.05
MAX_SEQ = 2**53 - 1  # the largest whole number that a browser holds exactly


@dataclass(frozen=True)
class DeckValue:
    """Where all sliders stood at one moment.

    Attributes:
        seq: counts the moves of one page, so that an older event never overwrites a newer one.
        positions: attribute name -> position in [-LIMIT, LIMIT]; sliders at rest are left out.
    """

    seq: int = 0
    positions: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


def read_value(value: object, names: Collection[str]) -> DeckValue:
    """What a client posted, checked: `{"seq": int, "positions": {name: number}}`; nothing at all is a deck at rest.

    Raises:
        UnknownName: a position names no attribute in `names`.
        InvalidValue: anything else is not as the deck sends it.
    """
    if value is None or value == "":
        return DeckValue()
    if not isinstance(value, Mapping):
        raise InvalidValue("The deck's value is not an object.", "Send {seq, positions}.")
    return DeckValue(_seq(value.get("seq", 0)), read_positions(value.get("positions", {}), names))


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
    return BoxValue(_text(value.get("text")), typed)


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
        _text(posted.get("text")),
        None if positions is None else read_positions(positions, names),
    )


def describe(positions: Mapping[str, float]) -> str:
    """A mix in a few words, such as `formality +0.80 · humor −0.40`; `base` when every slider is at rest."""
    parts = (f"{name} {position:+.2f}".replace("-", "−") for name, position in positions.items())
    return " · ".join(parts) or "base"


def _seq(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEQ:
        raise InvalidValue("The deck's sequence number is not a whole number.", "Count up from 0.")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValue("The formula is not a text.", "Send it as a string.")
    return value.encode("utf-8", "replace").decode()  # JSON can hold halves of letters, which no answer can


def _position(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidValue(f"The position of {name} is not a number.", f"Give a number from -{LIMIT} to {LIMIT}.")
    if not -LIMIT <= value <= LIMIT:
        raise InvalidValue(f"The position of {name} is out of range.", f"Give a number from -{LIMIT} to {LIMIT}.")
    return float(value)
