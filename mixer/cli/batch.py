"""The command that writes a text for every row of a CSV file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mixer.cli.options import (
    command,
    field_option,
    load_desk,
    mix_options,
    read_mix,
    read_params,
    read_steering,
    read_text,
    sampling_options,
    steering_options,
)
from mixer.errors import InvalidValue


def add(commands: Any) -> None:
    """Add this command to the parser."""
    one = command(commands, "batch", batch, "write a text for every row of a CSV file", desk=True)
    one.add_argument("file", type=Path, help="with a column `prompt` or `messages`; further ones as in the page's tab")
    one.add_argument("out", type=Path, help="a file that is not there yet: the same rows with text, scores and seed")
    one.add_argument("--overwrite", action="store_true", help="replace what is already there")
    mix_options(one)
    steering_options(one)
    rows = one.add_argument_group("for rows that leave these out")
    field_option(rows, "reply")
    field_option(rows, "system")
    field_option(rows, "formula")
    sampling_options(rows)


def batch(options: argparse.Namespace) -> dict:
    """Write a text for every row. An interrupted run still writes the rows that were finished.

    Raises:
        InvalidValue: `out` exists or has no folder, or the CSV file cannot be read.
    """
    from mixer import Request
    from mixer.files.csv_table import read_table
    from mixer.tasks.batch import write
    from mixer.tasks.batch_csv import REQUIRED, BatchTable

    if options.out.exists() and not options.overwrite:
        raise InvalidValue(f"{options.out} is already there.", "Give another path, or --overwrite.")
    if not options.out.parent.is_dir():
        raise InvalidValue(f"There is no folder {options.out.parent}.", "Make it first.")
    table = read_table(read_text(options.file, "CSV"), *REQUIRED)
    mix, steering = read_mix(options), read_steering(options)
    params = read_params(options)
    desk = load_desk(options, mix, steering)
    if options.formula is not None:
        desk.formula(options.formula)
    default = Request("", mix, params, options.formula, steering)
    sheet = BatchTable(desk, table, default, reply=options.chat, system=options.system)
    for note in sheet.notes:
        print(note, file=sys.stderr)
    shown = -1
    try:
        for _ in write(desk, sheet.jobs):
            if sheet.done != shown:
                shown = sheet.done
                print(f"\r{shown} of {len(sheet.jobs)}", end="", file=sys.stderr, flush=True)
    finally:
        options.out.write_text(sheet.text(table.delimiter), encoding="utf-8", newline="")
        print(file=sys.stderr)
    wrong = [job.error for job in sheet.jobs if job.error]
    if not options.json:
        for error in wrong:
            print(error)
        print(f"{options.out}: {len(sheet.jobs) - len(wrong)} of {len(sheet.jobs)} rows written")
    return {"path": str(options.out), "rows": len(sheet.jobs), "written": len(sheet.jobs) - len(wrong), "errors": wrong}
