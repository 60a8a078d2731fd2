"""Commands that measure speed beside peers."""

from __future__ import annotations

import argparse
from typing import Any

from mixer.cli.command import command


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    bench = commands.add_parser("bench", help="speed, side by side with peers").add_subparsers(
        required=True, metavar="WHAT"
    )
    command(bench, "moves", bench_moves, "what one slider move costs, ours and PEFT's")


def bench_moves(options: argparse.Namespace) -> dict:
    """Microseconds a slider move."""
    from mixer.evals import moves

    report = moves.bench_moves()
    if not options.json:
        print(moves.table(report))
    return report
