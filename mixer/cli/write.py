"""Commands that write text, and the list of what is loaded."""

from __future__ import annotations

import argparse
from typing import Any

from mixer.cli.command import command, load_desk, mix_options, read_mix
from mixer.mix import POLES


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    one = command(commands, "generate", generate, "write a text under a mix", desk=True)
    one.add_argument("prompt")
    mix_options(one)
    one.add_argument("--max-new-tokens", type=int, default=120)
    one.add_argument("--temperature", type=float, default=0.8)
    one.add_argument("--top-p", type=float, default=0.95)
    one.add_argument("--seed", type=int)

    command(commands, "attributes", attributes, "list attributes, poles and anchors", desk=True)


def generate(options: argparse.Namespace) -> dict:
    """Stream a text to stdout; its facts as the result."""
    from mixer import SamplingParams

    params = SamplingParams(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )
    mix = read_mix(options)
    desk = load_desk(options, mix)
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
        "mix": {
            "positions": {name: at.position for name, at in mix.settings.items()},
            "rule": mix.rule,
            "coefficients": dict(mix.weights),
            "key": mix.key,
        },
        "stats": {
            "first_token_ms": stats.first_token_ms,
            "tokens_per_second": stats.tokens_per_second,
            "exact": stats.exact,
            "seed": session.seed,
        },
    }


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
