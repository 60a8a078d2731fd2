"""What every command shares: its parser, and the desk that its options ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], dict], text: str, desk: bool = False
) -> argparse.ArgumentParser:
    """A subcommand that runs `run`; with the options of `Desk.load` if it needs a desk."""
    added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    added.set_defaults(run=run)
    added.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    if desk:
        added.add_argument("--base", help="folder or hub id of a causal LM; the embedded one by default")
        added.add_argument("--anchors", help="folder or hub id of anchors; the shipped ones by default")
        added.add_argument("--device", default="auto")
        added.add_argument("--dtype", default="auto")
        added.add_argument("--quantize", metavar="SCHEME", help="nf4 or int8, through bitsandbytes")
        added.add_argument("--device-map", metavar="MAP", help="auto, balanced or sequential: a base over devices")
    return added


def load_desk(options: argparse.Namespace):
    """The desk that the options ask for."""
    from mixer import Desk

    return Desk.load(
        options.base,
        options.anchors,
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        device_map=options.device_map,
    )
