"""The check of every number and every list that comes from a person or a file. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mixer.errors import InvalidValue

MOST_TEXTS, MOST_LETTERS = 100, 1000  # texts in one list, and characters of each


def bounded(name: str, value: object, low: float, high: float) -> float:
    """`value` as a float.

    Raises:
        InvalidValue: `value` is no number, not finite, or outside `[low, high]`. `name` names it in the message.
    """
    hint = f"Give a number from {low:g} to {high:g}."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(f"{name} must be a number, not {str(value)[:40]!r}.", hint)
    if not low <= value <= high:  # NaN compares false
        shown = f"{value:.6g}" if abs(value) < 10**300 or value != value else "far too large"
        raise InvalidValue(f"{name} is {shown}, which is out of range.", hint)
    return float(value)


def texts(name: str, value: object) -> tuple[str, ...]:
    """`value`, one text or a sequence of texts, as a tuple of texts.

    Raises:
        InvalidValue: one of them is empty, too long or no text, or there are too many. `name` names the list.
    """
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, Sequence):
        raise InvalidValue(f"{name} must be texts, not {str(value)[:40]!r}.", "Give a list of texts.")
    if len(found) > MOST_TEXTS:
        raise InvalidValue(f"{name} has {len(found):,} texts.", f"Give at most {MOST_TEXTS}.")
    for text in found:
        if not isinstance(text, str) or not 0 < len(text) <= MOST_LETTERS:
            shown = "empty" if text == "" else f"{str(text)[:40]!r}"
            raise InvalidValue(f"A text of {name} is {shown}.", f"Give texts of 1 to {MOST_LETTERS:,} characters.")
    return tuple(found)


def json_list(text: str, hint: str) -> list[Any]:
    """The list that a text in JSON holds.

    Raises:
        InvalidValue: it holds none. `hint` says how to write one.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # the latter of a thousand open brackets
        found = None
    if not isinstance(found, list):
        raise InvalidValue(f"{text.strip()[:40]!r} is no JSON list.", hint)
    return found
