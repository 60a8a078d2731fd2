"""The command line: `python -m mixer COMMAND`. Turns words into calls of the desk and the trainers, and nothing more.

Text and tables go to stdout, progress to stderr. With `--json` the last line of stdout is one JSON object.
Exit codes: 0 done, 2 bad input (one line on stderr), 1 a fault of ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mixer.errors import InvalidValue, MixerError
from mixer.mix import POLES, RULES

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(argv)
    quiet_libraries()
    try:
        result = options.run(options)
    except MixerError as error:
        print(f"mixer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    return 0


def quiet_libraries() -> None:
    """No bars and notes of other libraries between ours."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    root = argparse.ArgumentParser("mixer", description="A mixing desk for language models.")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

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

    train = commands.add_parser("train", help="train a base, anchors or judges").add_subparsers(
        required=True, metavar="WHAT"
    )
    base = command(train, "base", train_base, "a small language model from scratch")
    base.add_argument("--data", type=Path, required=True, help="folder with pretrain/, attributes/ and pairs/")
    base.add_argument("--out", type=Path, default=ROOT / "assets" / "base")
    base.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "base", help="checkpoints; an unfinished run resumes"
    )
    length = base.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float)
    length.add_argument("--tokens", type=int)
    for flag, default in (("layers", 5), ("hidden-size", 384), ("heads", 6), ("rows", 16), ("context", 512)):
        base.add_argument(f"--{flag}", type=int, default=default)

    for name, text in (("anchor", "one anchor"), ("anchors", "all anchors")):
        anchor = command(train, name, train_anchors, text)
        if name == "anchor":
            anchor.add_argument("attribute")
            anchor.add_argument("pole", choices=POLES)
        anchor.add_argument("--base", help="folder or hub id of any causal LM; the embedded one by default")
        anchor.add_argument("--data", type=Path, help="more texts; without it the shipped pairs alone")
        anchor.add_argument(
            "--out", type=Path, help="the shipped anchors' folder by default, for the embedded base alone"
        )
        anchor.add_argument("--steps", type=int, help="optimizer steps an anchor")
        anchor.add_argument("--rank", type=int)
        anchor.add_argument("--overwrite", action="store_true", help="train again what is already there")

    for name, text in (("judge", "one judge"), ("judges", "all judges")):
        judge = command(train, name, train_judges, text)
        if name == "judge":
            judge.add_argument("attribute")
        judge.add_argument("--data", type=Path, help="more texts; without it the shipped pairs alone")
        judge.add_argument("--out", type=Path, default=ROOT / "assets" / "judges")

    evaluate = commands.add_parser("evaluate", help="measure what the sliders do").add_subparsers(
        required=True, metavar="WHAT"
    )
    control = command(
        evaluate, "control", evaluate_control, "judges' scores at the poles of every attribute", desk=True
    )
    control.add_argument("--prompts", type=int, default=50, help="held-out openings to continue")
    control.add_argument("--tokens", type=int, default=60)
    control.add_argument("--positions", type=float, nargs="+", default=[-1.0, 0.0, 1.0])
    control.add_argument("--rule", choices=RULES, default="offset")
    control.add_argument("--seed", type=int, default=7)
    control.add_argument("--out", type=Path, help="write the report there as JSON")
    command(
        evaluate, "card", evaluate_card, "write anchors/MODEL_CARD.md from the reports, with fresh samples", desk=True
    )

    bench = commands.add_parser("bench", help="speed, side by side with peers").add_subparsers(
        required=True, metavar="WHAT"
    )
    command(bench, "moves", bench_moves, "what one slider move costs, ours and PEFT's")
    return root


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
    return added


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


def load_desk(options: argparse.Namespace):
    """The desk that the options ask for."""
    from mixer import Desk

    return Desk.load(options.base, options.anchors, device=options.device, dtype=options.dtype)


def train_base(options: argparse.Namespace) -> dict:
    """Train a base model."""
    from mixer.training.base import BaseConfig, train_base

    names = ("minutes", "tokens", "layers", "hidden_size", "heads", "rows", "context")
    config = BaseConfig(**{name: getattr(options, name) for name in names})
    return train_base(options.data, options.out, options.work, config)


def train_anchors(options: argparse.Namespace) -> dict:
    """Train one anchor, or all."""
    from mixer.training import anchor

    changes = {name: getattr(options, name) for name in ("steps", "rank") if getattr(options, name) is not None}
    config = anchor.AnchorConfig(**changes)
    if options.base and not options.out:
        raise InvalidValue("Anchors for another base would replace those that are shipped.", "Give --out a folder.")
    base, out = options.base or ROOT / "assets" / "base", options.out or ROOT / "anchors"
    if hasattr(options, "attribute"):
        return anchor.train_anchor(base, options.attribute, options.pole, options.data, out, config, options.overwrite)
    return anchor.train_anchors(base, options.data, out, config, options.overwrite)


def train_judges(options: argparse.Namespace) -> dict:
    """Train one judge, or all."""
    from mixer.training import judge

    if hasattr(options, "attribute"):
        return judge.train_judge(options.attribute, options.data, options.out)
    return judge.train_judges(options.data, options.out)


def evaluate_control(options: argparse.Namespace) -> dict:
    """Judges' mean scores along every slider."""
    from mixer.evals.control import base_loglikelihoods, control, held_out_prompts

    report = control(
        load_desk(options),
        held_out_prompts(count=options.prompts),
        positions=options.positions,
        tokens=options.tokens,
        seed=options.seed,
        rule=options.rule,
        loglikelihoods=base_loglikelihoods(options.base or str(ROOT / "assets" / "base")),
    )
    if not options.json:
        print(report.table())
    if options.out:
        options.out.write_text(report.to_json() + "\n", encoding="utf-8")
    return json.loads(report.to_json())


def evaluate_card(options: argparse.Namespace) -> dict:
    """The model card."""
    from mixer.desk import ANCHORS, BASE, JUDGES
    from mixer.evals.card import measure_card

    path = measure_card(load_desk(options), Path(options.base or BASE), Path(options.anchors or ANCHORS), JUDGES)
    if not options.json:
        print(path)
    return {"card": str(path)}


def bench_moves(options: argparse.Namespace) -> dict:
    """Microseconds a slider move."""
    from mixer.evals import moves

    report = moves.bench_moves()
    if not options.json:
        print(moves.table(report))
    return report
