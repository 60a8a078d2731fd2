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
    memory = command(bench, "memory", bench_memory, "what a base of 1.5 billion parameters with twelve anchors takes")
    memory.add_argument("--layers", type=int, default=28)
    memory.add_argument("--hidden", type=int, default=1536)


def bench_moves(options: argparse.Namespace) -> dict:
    """Microseconds a slider move."""
    from mixer.evals import moves

    report = moves.bench_moves()
    if not options.json:
        print(moves.table(report))
    return report


def bench_memory(options: argparse.Namespace) -> dict:
    """Megabytes, seconds to make it, milliseconds a step, microseconds a move."""
    from mixer.evals import memory

    report = memory.bench_memory(memory.Shape(options.layers, options.hidden))
    if not options.json:
        print(memory.table(report))
    return report
