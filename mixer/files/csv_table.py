"""Tables as CSV: read with any of the usual delimiters, written so that no spreadsheet takes a text for a formula.

A cell that a spreadsheet would compute gets an apostrophe before it, as people mark such cells as text by hand; reading
takes one away again, so that what was written reads back as it was. Numbers stay numbers. Knows texts alone: no files,
and not what columns mean.
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
    """Rows under named columns, all as text.

    Attributes:
        rows: each at least as long as `columns`; longer where the file has more cells in it.
        numbers: of the rows as a spreadsheet counts them, the header being row 1.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    delimiter: str = ","
    numbers: tuple[int, ...] = field(default=(), compare=False)


def read_table(text: str, column: str, most_rows: int | None = None) -> Table:
    """The table in a file's text, with or without a byte order mark; empty rows are left out.

    Args:
        column: one that must be there, in upper or lower case; the delimiter is the one that separates it.

    Raises:
        InvalidValue: it is no CSV, lacks the column, names one twice or has too many rows.
    """
    text = text.removeprefix("\ufeff")
    heads = {delimiter: _header(text, delimiter) for delimiter in DELIMITERS}
    found = [one for one, head in heads.items() if column in (name.casefold() for name in head)]
    if not found:
        raise InvalidValue(
            f"The file has no column {column!r}.", "Name the columns in its first row, separated by , or ; or tabs."
        )
    columns = heads[found[0]]
    for name in columns:
        if name and columns.count(name) > 1:
            raise InvalidValue(f"The column {name[:80]!r} is there twice.", "Leave one of them out.")

    records = enumerate(_records(text, found[0]), 1)
    next(records)
    rows, numbers = [], []
    for number, cells in records:
        if not any(cells):
            continue
        if len(rows) == most_rows:
            raise InvalidValue(f"The file has more than {most_rows:,} rows.", "Split it.")
        rows.append((*cells, *[""] * (len(columns) - len(cells))))
        numbers.append(number)
    return Table(columns, tuple(rows), found[0], tuple(numbers))


def _header(text: str, delimiter: str) -> tuple[str, ...]:
    try:
        return tuple(name.strip() for name in next(_records(text, delimiter), ()))
    except InvalidValue:
        return ()


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
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
    """A file's text; `read_table` reads the same cells from it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)  # ends rows by \r\n, and so quotes both letters in cells
    for row in (columns, *rows):
        writer.writerow([_plain(cell) for cell in row])
    return text.getvalue()


def _plain(cell: str) -> str:
    """A cell that no spreadsheet computes."""
    return f"'{cell}" if re.match(_COMPUTED, cell) and not re.fullmatch(_NUMBER, cell) else cell
