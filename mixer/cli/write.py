"""Commands that write text, and the list of what is loaded."""

from __future__ import annotations

import argparse
from typing import Any

from mixer.cli.command import command, load_desk
from mixer.errors import InvalidValue
from mixer.mix import POLES, RULES


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    one = command(commands, "generate", generate, "write a text under a mix", desk=True)
    one.add_argument("prompt")
    one.add_argument(
        "--set", action="append", default=[], metavar="ATTRIBUTE=POSITION", help="-1 to 1; may be repeated"
    )
    one.add_argument("--rule", choices=RULES, default="offset")
    one.add_argument("--max-new-tokens", type=int, default=120)
    one.add_argument("--temperature", type=float, default=0.8)
    one.add_argument("--top-p", type=float, default=0.95)
    one.add_argument("--seed", type=int)

    command(commands, "attributes", attributes, "list attributes, poles and anchors", desk=True)


def generate(options: argparse.Namespace) -> dict:
    """Stream a text to stdout; its facts as the result."""
    from mixer import SamplingParams

    positions = dict(setting(text) for text in options.set)
    params = SamplingParams(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )
    desk = load_desk(options)
    mix = desk.mix(positions, rule=options.rule)
    session = desk.session(options.prompt, mix, params)
    for step in session:
        if not options.json:
            print(step.text, end="", flush=True)
    if not options.json:
        print()
    stats = session.stats
    return {
        "text": session.text,
        "token_ids": session.token_ids,
        "finish_reason": session.finish_reason,
        "mix": {"positions": positions, "rule": mix.rule, "coefficients": dict(mix.weights), "key": mix.key},
        "stats": {
            "first_token_ms": stats.first_token_ms,
            "tokens_per_second": stats.tokens_per_second,
            "exact": stats.exact,
            "seed": session.seed,
        },
    }


def setting(text: str) -> tuple[str, float]:
    """`formality=0.8` as a name and a number."""
    name, equals, number = text.partition("=")
    try:
        if not name or not equals:
            raise ValueError
        return name.strip(), float(number)
    except ValueError:
        raise InvalidValue(f"--set {text!r} is not a setting.", "Write it as ATTRIBUTE=NUMBER.") from None


def attributes(options: argparse.Namespace) -> dict:
    """A table of what is loaded; the same facts as the result."""
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
    return {"base": desk.name, "context": desk.context, "attributes": listed, "anchors": list(desk.anchors)}
