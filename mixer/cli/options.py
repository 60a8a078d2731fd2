"""What commands share: their parser, their common options, and what these options stand for: desk, mix, steering."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixer.errors import InvalidValue, UnknownName
from mixer.resources import OUTPUTS
from mixer.values.mix import POLES, RULES, Mix, Setting
from mixer.values.request import FIELDS, SAMPLING, read_sampling
from mixer.values.sampling import SamplingParams
from mixer.values.steering import REST, Steering

if TYPE_CHECKING:
    from mixer.desk import Desk

REWARDS = OUTPUTS / "runs" / "rewards"  # reward models and caches; they are not shipped


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], dict], text: str, desk: bool = False
) -> argparse.ArgumentParser:
    """Add a subcommand that calls `run`. With `desk`, it has the options of `Desk.load`."""
    added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    added.set_defaults(run=run)
    added.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    if desk:
        added.add_argument("--base", help="folder, hub id or .gguf file of a causal LM, or `tiny`; SmolLM2 by default")
        added.add_argument("--anchors", help="folder or hub id of anchors; the shipped ones by default")
        added.add_argument("--device", default="auto")
        added.add_argument("--dtype", default="auto")
        added.add_argument("--quantize", metavar="SCHEME", help="nf4 or int8, through bitsandbytes")
        added.add_argument("--device-map", metavar="MAP", help="auto, balanced or sequential: a base over devices")
        formula_sources(added)
    return added


def formula_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that load what formulas can name besides anchors: other bases, judges, reward models."""
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
    parser.add_argument(
        "--reward-model",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a trained reward model, to steer like a reward head; may be repeated",
    )


def read_sources(options: argparse.Namespace) -> list[tuple[str, str, str, str]]:
    """The values of `formula_sources`' options: (`model`, `judge` or `reward`; name; source; label or an empty string).

    Raises:
        InvalidValue: an option is not written as it must be.
    """
    found = [("model", *_named("--model", text), "") for text in options.model]
    for text in options.judge:
        name, source = _named("--judge", text)
        source, _, label = source.partition("#")
        found.append(("judge", name, source, label))
    return found + [("reward", *_named("--reward-model", text), "") for text in options.reward_model]


def add_sources(desk: Desk, options: argparse.Namespace) -> None:
    """Load into a desk what the options of `formula_sources` name.

    Raises:
        MixerError: an option is not written as it must be, or its source cannot be used.
    """
    for kind, name, source, label in read_sources(options):
        if kind == "model":
            desk.add_model(name, source)
        elif kind == "judge":
            desk.add_judge(name, source, label or None)
        else:
            desk.add_reward(name, source)


def _named(option: str, text: str) -> tuple[str, str]:
    name, _, source = text.partition("=")
    if not name or not source:
        raise InvalidValue(f"{option} {text!r} names nothing.", "Write it as NAME=SOURCE, a folder or hub id.")
    return name, source


def load_desk(options: argparse.Namespace, mix: Mix | None = None, steering: Steering | None = None):
    """Load the desk that the options describe.

    Raises:
        MixerError: the desk cannot be loaded, or it lacks a name of `mix` or `steering`.
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
    for note in desk.notes:
        print(note, file=sys.stderr)
    add_sources(desk, options)
    if mix is not None:
        for attribute in mix.settings:
            if attribute not in desk.attributes:
                raise UnknownName("attribute", attribute, desk.attributes)
        mix.coefficients(desk.anchors)
    for name in steering.heads if steering else ():
        if name not in desk.rewards:
            raise UnknownName("reward", name, desk.rewards)
    return desk


def read_text(path: Path, kind: str) -> str:
    """The text of a file, or of stdin where the path is `-`. A byte order mark is left out.

    Raises:
        InvalidValue: it cannot be read, or is not in UTF-8. `kind` says what file is asked for.
    """
    try:
        return (sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()).decode("utf-8-sig")
    except OSError as error:
        raise InvalidValue(f"{path} cannot be read: {error.strerror}.", f"Give the path of a {kind} file.") from None
    except UnicodeDecodeError:
        raise InvalidValue(f"{path} is not in UTF-8.", f"Save it as {kind} in UTF-8.") from None


def field_option(parser: argparse._ActionsContainer, name: str, **options: Any) -> None:
    """Add the option of a field in `FIELDS`. `options` are arguments of `add_argument` that replace the field's own."""
    field = FIELDS[name]
    known: dict[str, Any] = {"help": field.describe()}
    if field.kind is dict:
        known |= {"action": "append", "default": [], "metavar": "NAME=NUMBER"}
        known["help"] += " May be repeated."
    elif field.kind is tuple:
        known |= {"action": "append", "default": list(field.default), "metavar": "TEXT"}
        known["help"] += " May be repeated."
    elif field.kind is bool:
        known |= {"action": "store_true"}
    else:
        known |= {"type": field.kind, "default": field.default}
        if field.default not in (None, ""):
            known["help"] += f" {field.default} if left out."
    parser.add_argument(field.flag, **known | options)


def sampling_options(parser: argparse._ActionsContainer) -> None:
    """Add the options of all arguments of `SamplingParams`. `read_params` reads them."""
    for name in SAMPLING:
        # None, so that a default does not replace what the mix file says.
        field_option(parser, name, dest=FIELDS[name].argument, default=None)


def read_params(options: argparse.Namespace) -> SamplingParams:
    """The sampling parameters that `--mix` and the options of `sampling_options` give. Options replace the file's.

    Raises:
        MixerError: the file holds no mix, or an option is not written as it must be or out of range.
    """
    given: dict[str, Any] = {}
    if options.mix is not None:
        from mixer.files.mix_file import load_sampling

        given = load_sampling(options.mix).record()
    arguments = [FIELDS[name].argument for name in SAMPLING]
    asked = {name: value for name in arguments if (value := getattr(options, name)) is not None}
    if "logit_bias" in asked:
        asked["logit_bias"] = dict(_bias(text) for text in asked["logit_bias"])
    return read_sampling({**given, **asked})


def _bias(text: str) -> tuple[str, float]:
    """Read `colour=5` as a word or token id and a number. The word may have spaces and `=` in it."""
    word, _, number = text.rpartition("=")
    return word, setting(f"word={number}" if word else text, "--logit-bias")[1]


def mix_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a mix. `read_mix` reads them."""
    field_option(parser, "positions")
    parser.add_argument(
        "--mix", type=Path, metavar="FILE", help="a mix saved as YAML; --set and --rule replace what it says"
    )
    parser.add_argument("--rule", choices=RULES, help="offset by default")


def read_mix(options: argparse.Namespace) -> Mix:
    """The mix that `--mix`, `--set` and `--rule` describe.

    `--set` and `--rule` replace what the file says. An attribute that is set loses the file's raw coefficients.

    Raises:
        MixerError: the file holds no mix, or a setting is not valid.
    """
    settings = {name: Setting.at(position) for name, position in map(setting, options.set)}
    if options.mix is None:
        return Mix(settings, options.rule or "offset")
    from mixer.files.mix_file import load_mix

    mix = load_mix(options.mix)
    anchors = {f"{attribute}.{pole}" for attribute in settings for pole in POLES}
    raw = {name: coefficient for name, coefficient in mix.raw.items() if name not in anchors}
    return replace(mix, settings={**mix.settings, **settings}, rule=options.rule or mix.rule, raw=raw)


def steering_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe how rewards steer. `read_steering` reads them."""
    field_option(parser, "rewards")
    field_option(parser, "levels")
    budget = FIELDS["budget"].describe()
    field_option(parser, "budget", type=str, default=None, metavar="NATS", help=f"{budget} 'none' for no limit.")
    field_option(parser, "whole")


def read_steering(options: argparse.Namespace) -> Steering:
    """The steering that `--mix`, `--reward`, `--aim`, `--budget` and `--whole` describe.

    A reward that is named in an option loses what the file says of it.

    Raises:
        MixerError: the file holds no mix, or an option is not written as it must be.
    """
    named_positions = dict(setting(text, "--reward") for text in options.reward)
    asked = Steering(named_positions, dict(setting(text, "--aim") for text in options.aim))
    saved = REST
    if options.mix is not None:
        from mixer.files.mix_file import load_steering

        saved = load_steering(options.mix)
    named = named_positions.keys() | asked.levels.keys()
    positions = {name: x for name, x in saved.positions.items() if name not in named} | dict(asked.positions)
    levels = {name: level for name, level in saved.levels.items() if name not in named} | dict(asked.levels)
    budget, whole = saved.budget, saved.whole or options.whole
    if options.budget is not None:
        budget = _nats(options.budget)
    elif saved == REST and (asked.heads or whole):
        budget = FIELDS["budget"].default
    return Steering(positions, levels, budget, whole)


def _nats(text: str) -> float | None:
    """The value of `--budget`: nats, or None for no limit."""
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise InvalidValue(f"--budget {text!r} is no budget.", "Give a number of nats, or none.") from None


def setting(text: str, option: str = "--set") -> tuple[str, float]:
    """Read `formality=0.8` as a name and a number.

    Raises:
        InvalidValue: the text is not of this form; `option` is named in the message.
    """
    name, equals, number = text.partition("=")
    try:
        if not name or not equals:
            raise ValueError
        return name.strip(), float(number)
    except ValueError:
        raise InvalidValue(f"{option} {text!r} is not a setting.", "Write it as NAME=NUMBER.") from None
