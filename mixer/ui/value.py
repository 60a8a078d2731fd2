"""What the deck's value means: where all sliders stand, as a client posts it.

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


def describe(positions: Mapping[str, float]) -> str:
    """A mix in a few words, such as `formality +0.80 · humor −0.40`; `base` when every slider is at rest."""
    parts = (f"{name} {position:+.2f}".replace("-", "−") for name, position in positions.items())
    return " · ".join(parts) or "base"


def _seq(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEQ:
        raise InvalidValue("The deck's sequence number is not a whole number.", "Count up from 0.")
    return value


def _position(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidValue(f"The position of {name} is not a number.", f"Give a number from -{LIMIT} to {LIMIT}.")
    if not -LIMIT <= value <= LIMIT:
        raise InvalidValue(f"The position of {name} is out of range.", f"Give a number from -{LIMIT} to {LIMIT}.")
    return float(value)
