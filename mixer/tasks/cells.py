"""What stands in one cell of a table of prompts, as a value. Knows the kinds of values, and no columns."""

from __future__ import annotations

import math
from typing import Any

from mixer.errors import InvalidValue
from mixer.values.bounds import json_list
from mixer.values.chat import HINT, Conversation
from mixer.values.sampling import SamplingParams


def read_cell(cell: str, kind: type) -> Any:
    """The value of a cell: a text, a number, a whole number, yes or no, texts, or messages that are not checked yet.

    Raises:
        InvalidValue: the cell is no such thing.
    """
    if kind is Conversation:
        return json_list(cell, HINT)
    if kind is bool:
        return read_yes(cell)
    if kind in (int, float):
        return read_whole(cell) if kind is int else read_number(cell)
    if kind is tuple and cell.lstrip().startswith("["):
        return json_list(cell, 'Write ["one", "other"], or one text that does not begin with a bracket.')
    return cell


def read_yes(cell: str) -> bool:
    """Yes or no; spreadsheets write TRUE and FALSE.

    Raises:
        InvalidValue: the cell is neither.
    """
    word = cell.strip().casefold()
    if word not in ("yes", "true", "1", "no", "false", "0"):
        raise InvalidValue(f"{cell.strip()[:40]!r} is neither yes nor no.", "Write yes or no.")
    return word in ("yes", "true", "1")


def read_key(word: str) -> str | int:
    """A word, or a token id, as `SamplingParams` keeps it.

    Raises:
        InvalidValue: it is neither.
    """
    return SamplingParams(logit_bias=[(word, 0.0)]).biases[0][0]


def read_number(cell: str) -> float:
    """A number with a decimal point or a decimal comma, which many spreadsheets write.

    Raises:
        InvalidValue: the cell is no number.
    """
    try:
        return float(cell.strip().replace(",", "."))
    except ValueError:
        raise InvalidValue(f"{cell.strip()[:40]!r} is no number.", "Write it as 0.6.") from None


def read_whole(cell: str) -> float:
    """A whole number. Spreadsheets write it as 7.0 if other cells of its column are empty.

    Raises:
        InvalidValue: the cell is no whole number.
    """
    try:
        return int(cell)
    except ValueError:
        number = read_number(cell)
    if "," in cell or (math.isfinite(number) and number != int(number)):
        raise InvalidValue(f"{cell.strip()[:40]} is no whole number.", "Write it with digits alone.")
    return number
