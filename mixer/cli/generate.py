"""Commands that write text, and the list of what is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixer.cli.options import (
    command,
    field_option,
    load_desk,
    mix_options,
    read_mix,
    read_params,
    read_steering,
    read_text,
    sampling_options,
    steering_options,
)
from mixer.errors import InvalidValue, UnknownName
from mixer.values.bounds import json_list
from mixer.values.chat import HINT, Prompt, prompt_of
from mixer.values.mix import POLES, Mix, Setting
from mixer.values.request import FIELDS

if TYPE_CHECKING:
    from mixer.files.presets import Preset


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    one = command(commands, "generate", generate, "write a text under a mix", desk=True)
    one.add_argument("prompt", nargs="?", help="how the text begins; with --chat, what is said to the model")
    field_option(one, "reply")
    field_option(one, "system")
    messages = f"{FIELDS['messages'].describe()} A JSON list in a file, or in stdin for `-`; implies --chat."
    field_option(one, "messages", type=Path, metavar="FILE", help=messages)
    mix_options(one)
    steering_options(one)
    how = one.add_mutually_exclusive_group()
    field_option(how, "formula")
    how.add_argument("--preset", metavar="NAME", help="one of `presets`; with its sliders unless a mix is given")
    one.add_argument(
        "--draft", default="auto", help="who guesses tokens ahead: auto (the formula's own), off, ngram or base"
    )
    sampling_options(one)

    explain = command(commands, "formula", explain_formula, "say what a formula does, without running it", desk=True)
    explain.add_argument("formula")
    command(commands, "presets", list_presets, "list formulas for known techniques")
    command(commands, "attributes", attributes, "list attributes, poles, anchors and rewards", desk=True)


def generate(options: argparse.Namespace) -> dict:
    """Stream a text to stdout. Returns the text, its tokens, its mix, steering and figures."""
    prompt, params = _read_prompt(options), read_params(options)
    preset = find_preset(options.preset) if options.preset else None
    formula = preset.formula if preset else options.formula
    mix, steering = read_mix(options), read_steering(options)
    if preset and not options.set and not options.mix:
        mix = Mix({name: Setting.at(position) for name, position in preset.settings.items()})
    desk = load_desk(options, mix, steering)
    session = desk.session(prompt, mix, params, formula=formula, draft=options.draft, steering=steering)
    levels = {}
    # A ban takes characters back, and what is printed cannot be taken back. So such a text is shown when it is whole.
    live = not options.json and not session.prompted.bound.bans
    for step in session:
        levels = step.levels
        if live:
            print(step.text, end="", flush=True)
    if not options.json:
        print("" if live else session.text)
    stats = session.stats
    return {
        "text": session.text,
        "token_ids": session.token_ids,
        "finish_reason": session.finish_reason,
        "mix": {
            "positions": {name: at.position for name, at in mix.settings.items()},
            "rule": mix.rule,
            "coefficients": dict(mix.weights),
            "key": mix.key,
        },
        "formula": formula or "sliders",
        "steering": steering.record(),
        "stats": {
            "first_token_ms": stats.first_token_ms,
            "tokens_per_second": stats.tokens_per_second,
            "exact": stats.exact,
            "acceptance": stats.acceptance,
            "nats": stats.nats,
            "most_nats": stats.most_nats,
            "readings": dict(levels),
            "seed": session.seed,
        },
    }


def _read_prompt(options: argparse.Namespace) -> Prompt:
    """What is written on from.

    Raises:
        InvalidValue: there is no prompt and no file of messages, or both; or the file holds no messages.
    """
    messages = None
    if options.messages is not None:
        messages = FIELDS["messages"].check(json_list(read_text(options.messages, "JSON"), HINT))
    elif options.prompt is None:
        raise InvalidValue("There is no prompt.", "Give one, or --messages FILE.")
    return prompt_of(options.prompt or "", options.chat, options.system, messages)


def explain_formula(options: argparse.Namespace) -> dict:
    """Print what a formula does, and return it: the weight S, the rows, the exponent of each summand, the warnings."""
    compiled = load_desk(options).formula(options.formula)
    report = compiled.report
    found = {
        "formula": str(compiled),
        "weight": report.weight,
        "rows": len(compiled.bound.branches),
        "summands": [{"text": s.text, "factor": s.factor, "exponent": s.exponent} for s in report.summands],
        "bans": list(compiled.bound.bans),
        "draft": str(compiled.bound.draft.formula) if compiled.bound.draft else None,
        "warnings": list(report.warnings),
    }
    if not options.json:
        shown = "depends on the text" if report.weight is None else f"{report.weight:.6g}"
        print(f"S {shown}, {found['rows']} rows of one pass")
        for summand in report.summands:
            exponent = "varies" if summand.exponent is None else f"{summand.exponent:+.4g}"
            print(f"{exponent:>10}  {summand.text}")
        for warning in report.warnings:
            print(f"Mind: {warning}")
    return found


def list_presets(options: argparse.Namespace) -> dict:
    """Print and return the shipped formulas for known techniques."""
    from mixer.files.presets import load_presets

    presets = load_presets()
    if not options.json:
        for preset in presets:
            print(f"{preset.name}\n    {preset.formula}\n    {preset.about}")
    return {"presets": [{"name": p.name, "formula": p.formula, "about": p.about} for p in presets]}


def find_preset(name: str) -> Preset:
    """A preset by its name; upper and lower case are the same.

    Raises:
        UnknownName: there is no preset of this name.
    """
    from mixer.files.presets import load_presets

    presets = {preset.name.lower(): preset for preset in load_presets()}
    if name.lower() not in presets:
        raise UnknownName("preset", name, [preset.name for preset in presets.values()])
    return presets[name.lower()]


def attributes(options: argparse.Namespace) -> dict:
    """Print a table of what is loaded, and return the same facts."""
    desk = load_desk(options)
    listed = {
        attribute.name: {
            "labels": dict(zip(POLES, attribute.labels, strict=True)),
            "description": attribute.description,
            "anchors": {
                anchor.name: {"rank": anchor.rank, "lora_alpha": anchor.lora_alpha, "path": anchor.path}
                for anchor in attribute.anchors
            },
        }
        for attribute in desk.attributes.values()
    }
    if not options.json:
        for name, facts in listed.items():
            labels, anchors = facts["labels"], facts["anchors"]
            ranks = ", ".join(f"{anchor} (rank {fact['rank']})" for anchor, fact in anchors.items())
            print(f"{name:12} {labels['negative']} … {labels['positive']}: {ranks}")
        if desk.rewards:
            print(f"{'rewards':12} {', '.join(desk.rewards)}")
    return {
        "base": desk.name,
        "context": desk.context,
        "attributes": listed,
        "anchors": list(desk.anchors),
        "rewards": list(desk.rewards),
    }
