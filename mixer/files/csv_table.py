"""CSV tables: read with any of the usual delimiters, and written so that no spreadsheet computes a text as a formula.

A cell that a spreadsheet would compute is written with an apostrophe in front, which marks it as text. Reading removes
this apostrophe, so that cells read back as they were written. Numbers stay numbers. This module works on strings: it
opens no files, and does not know what columns mean.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mixer.errors import InvalidValue

DELIMITERS = ",;\t"
_COMPUTED = r"'*[=+\-@＝＋－＠\t\r\n]"
_NUMBER = r"[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)?"


@dataclass(frozen=True)
class Table:
    """A table; all cells are strings.

    Attributes:
        rows: each is at least as long as `columns`, and longer if the file has more cells in this row.
        numbers: row numbers as in a spreadsheet, where the header is row 1.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    delimiter: str = ","
    numbers: tuple[int, ...] = field(default=(), compare=False)


def read_table(text: str, *required: str, most_rows: int | None = None) -> Table:
    """Read a table from a file's text, with or without a byte order mark. Empty rows are left out.

    Args:
        required: columns of which the file must have one, in upper or lower case. The delimiter is the first one with
            which the header has one of them.
        most_rows: the most rows that are accepted; None for no limit.

    Raises:
        InvalidValue: the text is no CSV, lacks these columns, has a column twice, or has too many rows.
    """
    text = text.removeprefix("\ufeff")
    heads = {delimiter: _header(text, delimiter) for delimiter in DELIMITERS}
    delimiters = [one for one, head in heads.items() if any(name.casefold() in required for name in head)]
    if not delimiters:
        raise InvalidValue(
            f"The file has no column {' or '.join(map(repr, required))}.",
            "Name the columns in its first row, separated by , or ; or tabs.",
        )
    delimiter = delimiters[0]
    columns = heads[delimiter]
    for name in columns:
        if name and columns.count(name) > 1:
            raise InvalidValue(f"The column {name[:80]!r} is there twice.", "Leave one of them out.")

    records = enumerate(_records(text, delimiter), 1)
    next(records)
    rows, numbers = [], []
    for number, cells in records:
        if not any(cells):
            continue
        if len(rows) == most_rows:
            raise InvalidValue(f"The file has more than {most_rows:,} rows.", "Split it.")
        rows.append((*cells, *[""] * (len(columns) - len(cells))))
        numbers.append(number)
    return Table(columns, tuple(rows), delimiter, tuple(numbers))


def _header(text: str, delimiter: str) -> tuple[str, ...]:
    """The cells of the first row; none if it cannot be read."""
    try:
        return tuple(name.strip() for name in next(_records(text, delimiter), ()))
    except InvalidValue:
        return ()


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    """All rows, without the apostrophes that `write_table` adds."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    while True:
        number += 1
        try:
            yield [re.sub(rf"^'(?={_COMPUTED})", "", cell) for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            hint = "Quote whole cells, double the quotes inside them, and close them."
            raise InvalidValue(f"Row {number} of the file cannot be read: {error}.", hint) from None


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]], delimiter: str = ",") -> str:
    """A table as a file's text. `read_table` reads the same cells from it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)  # rows end with \r\n, so cells with \r or \n are quoted
    for row in (columns, *rows):
        writer.writerow([_marked(cell) for cell in row])
    return text.getvalue()


def _marked(cell: str) -> str:
    """The cell, with an apostrophe in front if a spreadsheet would compute it."""
    return f"'{cell}" if re.match(_COMPUTED, cell) and not re.fullmatch(_NUMBER, cell) else cell
