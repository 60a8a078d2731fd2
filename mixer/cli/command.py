"""What every command shares: its parser, and the desk that its options ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixer.errors import InvalidValue, UnknownName
from mixer.mix import POLES, RULES, Mix, Setting

if TYPE_CHECKING:
    from mixer.desk import Desk

ROOT = Path(__file__).resolve().parents[2]
REWARDS = ROOT / "runs" / "rewards"  # reward models and caches; nothing of these ships


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
        formula_sources(added)
    return added


def formula_sources(parser: argparse.ArgumentParser) -> None:
    """The options that load what formulas can name besides anchors."""
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=SOURCE", help="another base for formulas; may be repeated"
    )
    parser.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="NAME=SOURCE[#LABEL]",
        help="a transformers sequence classifier as a judge for formulas; may be repeated",
    )


def add_sources(desk: Desk, options: argparse.Namespace) -> None:
    """Load what `formula_sources` asked for.

    Raises:
        MixerError: an option is not of its form, or what it names cannot be used.
    """
    for text in options.model:
        desk.add_model(*_named("--model", text))
    for text in options.judge:
        name, source = _named("--judge", text)
        source, _, label = source.partition("#")
        desk.add_judge(name, source, label or None)


def _named(option: str, text: str) -> tuple[str, str]:
    name, _, source = text.partition("=")
    if not name or not source:
        raise InvalidValue(f"{option} {text!r} names nothing.", "Write it as NAME=SOURCE, a folder or hub id.")
    return name, source


def load_desk(options: argparse.Namespace, mix: Mix | None = None):
    """The desk that the options ask for.

    Raises:
        MixerError: it cannot be loaded, or `mix` names an attribute or anchor that it lacks.
    """
    from mixer import Desk

    desk = Desk.load(
        options.base,
        options.anchors,
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        device_map=options.device_map,
    )
    add_sources(desk, options)
    if mix is not None:
        for attribute in mix.settings:
            if attribute not in desk.attributes:
                raise UnknownName("attribute", attribute, desk.attributes)
        mix.coefficients(desk.anchors)
    return desk


def mix_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which mix a command is about."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="ATTRIBUTE=POSITION", help="-1 to 1; may be repeated"
    )
    parser.add_argument(
        "--mix", type=Path, metavar="FILE", help="a mix saved as YAML; --set and --rule replace what it says"
    )
    parser.add_argument("--rule", choices=RULES, help="offset by default")


def read_mix(options: argparse.Namespace) -> Mix:
    """The mix that `--mix`, `--set` and `--rule` make; an attribute that is set loses the file's raw coefficients.

    Raises:
        MixerError: the file holds no mix, or a setting is none.
    """
    settings = {name: Setting.at(position) for name, position in map(setting, options.set)}
    if options.mix is None:
        return Mix(settings, options.rule or "offset")
    from mixer.mixfile import load_mix

    mix = load_mix(options.mix)
    anchors = {f"{attribute}.{pole}" for attribute in settings for pole in POLES}
    raw = {name: coefficient for name, coefficient in mix.raw.items() if name not in anchors}
    return replace(mix, settings={**mix.settings, **settings}, rule=options.rule or mix.rule, raw=raw)


def setting(text: str) -> tuple[str, float]:
    """`formality=0.8` as a name and a number."""
    name, equals, number = text.partition("=")
    try:
        if not name or not equals:
            raise ValueError
        return name.strip(), float(number)
    except ValueError:
        raise InvalidValue(f"--set {text!r} is not a setting.", "Write it as ATTRIBUTE=NUMBER.") from None
