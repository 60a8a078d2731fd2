"""CSV tables: cells read back as they were written, and no spreadsheet computes one."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import InvalidValue
from mixer.files.csv_table import DELIMITERS, read_table, write_table

cells = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    [
        "=1+1",
        "'=1",
        "''-x",
        "-0.5",
        "'-0.5",
        "+1e5",
        "-0,5",
        "@a",
        "\t",
        "\r",
        "\n=",
        '"',
        ",",
        ";",
        "-1+cmd|' /C x'!A0",
    ]
)
heads = st.lists(st.sampled_from(["formality", "id", "=x", "a b", "no,te", 'q"']), unique=True, max_size=4)


@given(heads, st.data(), st.sampled_from(DELIMITERS), st.booleans())
def test_what_was_written_reads_back_as_it_was(names: list[str], data: st.DataObject, delimiter: str, marked: bool):
    columns = ("prompt", *names)
    delimiter = delimiter if names else ","  # the delimiter of a single column cannot be known
    row = st.tuples(*[cells] * len(columns)).filter(any)
    rows = tuple(data.draw(st.lists(row, max_size=4)))
    found = read_table("\ufeff" * marked + write_table(columns, rows, delimiter), "prompt")
    assert (found.columns, found.rows) == (columns, rows)
    assert found.delimiter == delimiter
    assert found.numbers == tuple(range(2, len(rows) + 2))


@given(cells)
def test_no_spreadsheet_computes_a_cell(cell: str):
    [_, [written]] = csv.reader(io.StringIO(write_table(["prompt"], [[cell or "x"]]), newline=""))
    if written[:1] in tuple("=+-@\t\r\n＝＋－＠"):
        assert float(written.replace(",", ".")) == float(cell.replace(",", "."))
    else:
        assert written.endswith(cell or "x")


@pytest.mark.parametrize("number", ["-0.5", "+2", "-1e-3", "0.25", "-0,5", "7"])
def test_numbers_stay_numbers(number: str):
    assert write_table(["prompt"], [[number]]).splitlines()[1].strip('"') == number


def test_files_of_other_programs_are_read():
    assert read_table("Prompt;formality\r\nDear, all;0,5\r\n", "prompt").rows == (("Dear, all", "0,5"),)
    assert read_table("id\tprompt\r1\tHello\r", "prompt").rows == (("1", "Hello"),)
    assert read_table("id;Messages;a,b\n1;x;2", "prompt", "messages").columns == ("id", "Messages", "a,b")
    table = read_table('\ufeff prompt , note\n\nHello\n,\n"two\nlines",x,\n', "prompt")
    assert table.columns == ("prompt", "note")
    assert table.rows == (("Hello", ""), ("two\nlines", "x", ""))
    assert table.numbers == (3, 5)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no column 'prompt'"),
        ("text,formality\nHello,1\n", "no column 'prompt'"),
        ("prompt,humor,humor\nHello,1,2\n", "'humor' is there twice"),
        ('prompt,note\nHello,"x" y\n', "Row 2 of the file cannot be read"),
        ('prompt\nHello\n"open\n', "Row 3 of the file cannot be read"),
        ("prompt\na\nb\n\nc\n", "more than 2 rows"),
        ("prompt\n" + "x" * 200_000, "Row 2 of the file cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(text: str, message: str):
    with pytest.raises(InvalidValue, match=message):
        read_table(text, "prompt", most_rows=2)
