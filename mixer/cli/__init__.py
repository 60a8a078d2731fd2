"""The command line: `python -m mixer COMMAND`. Turns words into calls of the desk and the workflows, and nothing more.

Text and tables go to stdout, progress to stderr. With `--json` the last line of stdout is one JSON object.
Exit codes: 0 done, 2 bad input (one line on stderr, and the place in a formula), 1 a fault of ours.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress

from mixer.cli import batch, bench, evaluate, export, gguf, train, write
from mixer.errors import FormulaError, MixerError

LARGE = 4 << 20  # bytes of an array that goes back to the system at once
M_MMAP_THRESHOLD = -3  # glibc's malloc.h


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
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


def quiet_libraries() -> None:
    """No bars and notes of other libraries between ours."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def give_back_memory() -> None:
    """Have large arrays go back to the system as soon as they are let go; before the first of them is made.

    glibc puts off doing so once it saw one go, and keeps what each thread let go of apart: rooms for texts, made and
    let go by a server's many threads, came to hundreds of megabytes. Other systems stay as they are.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    root = argparse.ArgumentParser("mixer", description="A mixing desk for language models.")
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    for module in (write, batch, export, train, evaluate, gguf, bench):
        module.add(commands)
    return root
