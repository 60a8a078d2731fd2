"""`python -m mixer bench WHAT`: a door to `python -m bench WHAT`, which is part of the repository alone.

Forwards all words to the parser in `bench.cli`, which it imports only when the command runs. Knows no benchmark.
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
    # No word begins with this prefix, so that argparse forwards options, --help too, like any other word.
    added = commands.add_parser(name, help=text, add_help=False, prefix_chars="\0")
    added.add_argument("words", nargs=argparse.REMAINDER)
    added.set_defaults(run=forward, first=words, json=False)


def forward(options: argparse.Namespace) -> dict:
    """Run a benchmark, and set `options.json` as its own options have it; its report.

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
