"""Commands that write a mix to files: a PEFT adapter, a merged model, or the mix itself."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mixer.cli.options import (
    command,
    load_desk,
    mix_options,
    read_mix,
    read_params,
    read_steering,
    sampling_options,
    steering_options,
)
from mixer.errors import InvalidValue


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    export = commands.add_parser("export", help="write a mix to files").add_subparsers(required=True, metavar="WHAT")
    adapter = command(export, "adapter", export_adapter, "one PEFT adapter that is the mix", desk=True)
    adapter.add_argument("out", type=Path, help="an empty or new folder")
    adapter.add_argument("--rank", type=int, metavar="K", help="compress to this rank; exact without it")
    merged = command(export, "merged", export_merged, "base and mix as one model for transformers", desk=True)
    merged.add_argument("out", type=Path, help="an empty or new folder")
    mix = command(export, "mix", export_mix, "the mix as a YAML file, for --mix", desk=True)
    mix.add_argument("out", type=Path, help="a file that is not there yet")
    for parser in (adapter, merged, mix):
        mix_options(parser)
        parser.add_argument("--overwrite", action="store_true", help="replace what is already there")
    steering_options(mix)
    sampling_options(mix)
    for parser in (adapter, merged):
        # For these commands `--dtype` is the dtype of the written files. The desk's dtype follows from it.
        parser.set_defaults(dtype=None)


def export_adapter(options: argparse.Namespace) -> dict:
    """Write a PEFT adapter, exact or compressed."""
    from mixer import export_adapter

    dtype, options.dtype = options.dtype or "float32", "auto"
    mix = read_mix(options)
    done = export_adapter(load_desk(options, mix), mix, options.out, options.rank, dtype, options.overwrite)
    if not options.json:
        if options.rank is not None:
            print(done.table())
        print(f"{done.folder}: rank {done.rank}, {len(done.modules)} modules, {done.size / 1e6:.1f} MB in {dtype}")
    return done.to_dict()


def export_merged(options: argparse.Namespace) -> dict:
    """Write a merged model. With `--dtype`, W0 is loaded in float32, so that weights are rounded only once."""
    from mixer import export_merged

    dtype, options.dtype = options.dtype, "auto" if options.dtype is None else "float32"
    mix = read_mix(options)
    folder = export_merged(load_desk(options, mix), mix, options.out, dtype, options.overwrite)
    if not options.json:
        print(folder)
    return {"folder": str(folder), **json.loads((folder / "manifest.json").read_text(encoding="utf-8"))}


def export_mix(options: argparse.Namespace) -> dict:
    """Write a mix as YAML, after a desk has checked every name in it.

    Raises:
        InvalidValue: the file exists already.
    """
    from mixer import save_mix

    if options.out.exists() and not options.overwrite:
        raise InvalidValue(f"{options.out} is already there.", "Give another path, or --overwrite.")
    mix, steering, params = read_mix(options), read_steering(options), read_params(options)
    load_desk(options, mix, steering)
    path = save_mix(mix, options.out, steering, params)
    if not options.json:
        print(path)
    return {"path": str(path), "mix": str(mix), "key": mix.key}
