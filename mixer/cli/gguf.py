"""Commands that write GGUF files for llama.cpp: the base model, and a mix as a LoRA adapter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mixer.cli.options import command, load_desk, setting
from mixer.values.mix import RULES


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    gguf = commands.add_parser("gguf", help="files for llama.cpp").add_subparsers(required=True, metavar="WHAT")
    base = command(gguf, "base", gguf_base, "the base model and its tokenizer as one GGUF file", desk=True)
    lora = command(gguf, "lora", gguf_lora, "one mix as a LoRA adapter in GGUF, for that base", desk=True)
    lora.add_argument("--set", action="append", default=[], metavar="ATTRIBUTE=POSITION", help="may be repeated")
    lora.add_argument(
        "--anchor",
        action="append",
        default=[],
        metavar="NAME=COEFFICIENT",
        help="such as humor.positive=1; may be repeated",
    )
    lora.add_argument("--rule", choices=RULES, default="offset")
    for each in (base, lora):
        each.add_argument("out", type=Path)


def gguf_base(options: argparse.Namespace) -> dict:
    """Write the base model and its tokenizer as one GGUF file."""
    from mixer.export.gguf import export_gguf_base

    return _written(options, export_gguf_base(load_desk(options), options.out))


def gguf_lora(options: argparse.Namespace) -> dict:
    """Write a mix as a LoRA adapter in GGUF."""
    from mixer.export.gguf import export_gguf_lora

    desk = load_desk(options)
    mix = desk.mix(dict(map(setting, options.set)), rule=options.rule)
    mix += desk.mix_from_coefficients(dict(map(setting, options.anchor)))
    result = _written(options, export_gguf_lora(desk, mix, options.out))
    return result | {"coefficients": dict(mix.weights), "key": mix.key}


def _written(options: argparse.Namespace, path: Path) -> dict:
    """Print the path of a written file, and return it with the file's size."""
    if not options.json:
        print(path)
    return {"path": str(path), "bytes": path.stat().st_size}
