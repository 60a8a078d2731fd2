"""The check of every number that comes from a person or a file. Standard library only."""

from __future__ import annotations

from mixer.errors import InvalidValue


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
