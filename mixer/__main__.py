"""The command line: `python -m mixer`, and `mixing-desk` where the package is installed."""

from __future__ import annotations

import sys

from mixer import cli
from mixer.process import keep_pages, prepare_page


def main() -> int:
    """Run the command that the program's arguments name; returns the exit code."""
    if sys.argv[1:2] == ["train"]:
        keep_pages()
    elif sys.argv[1:2] == ["page"]:
        prepare_page()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
