"""`python -m mixer bench WHAT`: the same as `python -m bench WHAT`, in a checkout of the repository.

All arguments go on to the parser in `bench.cli`, which is imported only when the command runs. `bench` is not part of
the installed package. Knows no benchmark.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from mixer.errors import Unsupported

HOME = "bench"  # the folder of the repository beside `mixer`


def add(commands: Any) -> None:
    """Add this command to the parser."""
    add_door(commands, "bench", (), "benchmarks: speed beside peers, the page, and the study of rewards")


def add_door(commands: Any, name: str, words: tuple[str, ...], text: str) -> None:
    """Add a command that runs `python -m bench` with `words` and all words after its own name."""
    # No argument begins with this prefix. So argparse forwards options, even --help, like plain arguments.
    added = commands.add_parser(name, help=text, add_help=False, prefix_chars="\0")
    added.add_argument("words", nargs=argparse.REMAINDER)
    added.set_defaults(run=forward, first=words, json=False)


def forward(options: argparse.Namespace) -> dict:
    """Run a benchmark. Returns its report, and sets `options.json` as the benchmark's own `--json` says.

    Raises:
        Unsupported: `bench` cannot be imported here.
    """
    try:
        cli: Any = importlib.import_module(f"{HOME}.cli")
    except ModuleNotFoundError as error:
        if error.name not in (HOME, f"{HOME}.cli"):
            raise
        raise Unsupported(
            "Benchmarks are part of the repository, not of the installed package: run `python -m bench` in a checkout."
        ) from None
    asked = cli.parser("mixer bench").parse_args([*options.first, *options.words])
    options.json = asked.json
    return asked.run(asked)
