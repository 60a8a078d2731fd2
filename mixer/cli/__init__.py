"""The command line: `python -m mixer COMMAND`. It turns arguments into calls of the package, and does nothing else.

Text and tables go to stdout, progress to stderr. With `--json`, the last line of stdout is one JSON object.
Exit codes: 0 done; 2 bad input (one line on stderr, and for a formula the place of the error); 130 interrupted; 1 a
fault of the program.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from mixer.cli import batch, bench, evaluate, export, generate, gguf, page, train
from mixer.errors import FormulaError, MixerError
from mixer.process import quiet_libraries


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    options = parser().parse_args(argv)
    quiet_libraries()
    try:
        result = options.run(options)
    except MixerError as error:
        print(f"mixer: {error}", file=sys.stderr)
        if isinstance(error, FormulaError):
            print(error.caret, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands and their options."""
    root = argparse.ArgumentParser("mixer", description="A mixing desk for language models.")
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    for module in (page, generate, batch, export, train, evaluate, gguf, bench):
        module.add(commands)
    return root
