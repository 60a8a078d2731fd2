"""Commands that train: a base, anchors, judges, reward heads."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from mixer.cli.options import REWARDS, command
from mixer.resources import ANCHORS, OUTPUTS
from mixer.values.mix import POLES

BASE_HELP = "any causal LM: folder, hub id, .gguf file or `tiny`; SmolLM2 by default, where it is installed"
OUT_HELP = "the folder of what is shipped for the base by default, where something is"


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    train = commands.add_parser("train", help="train a base, anchors, judges or reward heads").add_subparsers(
        required=True, metavar="WHAT"
    )
    base = command(train, "base", train_base, "a small language model from scratch")
    base.add_argument("--data", type=Path, required=True, help="folder with pretrain/, attributes/ and pairs/")
    base.add_argument("--out", type=Path, default=OUTPUTS / "assets" / "base")
    base.add_argument(
        "--work", type=Path, default=OUTPUTS / "runs" / "base", help="checkpoints; an unfinished run resumes"
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
        anchor.add_argument("--data", type=Path, help="more texts; without it the shipped pairs alone")
        _anchor_options(anchor)

    own = command(train, "attribute", train_attribute, "both anchors and the judge of an attribute of your own")
    own.add_argument("pairs", type=Path, metavar="FILE.jsonl", help="pairs; labels are in FILE.yaml, if it is there")
    own.add_argument("--name", help="of the attribute; that of the file by default")
    own.add_argument("--labels", nargs=2, metavar=("NEG", "POS"), help="of the two poles, as formulas take them")
    _anchor_options(own)

    recipe = command(train, "recipe", train_recipe, "a recipe: from the base to anchors, heads, measures and the card")
    recipe.add_argument("recipe", metavar="NAME_OR_FILE", help="a shipped one, as in recipes/, or a .yaml file")
    recipe.add_argument("--base", help="a folder or .gguf file to load the base from, in place of the hub")
    recipe.add_argument("--out", type=Path, help="folder of anchors to be; anchors/NAME by default; a run is resumed")
    recipe.add_argument("--data", type=Path, help="more texts; without it the shipped pairs alone")
    recipe.add_argument("--work", type=Path, help="reward models and caches; runs/recipes/NAME by default")

    for name, text in (("judge", "one judge"), ("judges", "all judges")):
        judge = command(train, name, train_judges, text)
        if name == "judge":
            judge.add_argument("attribute")
        judge.add_argument("--data", type=Path, help="more texts; without it the shipped pairs alone")
        judge.add_argument("--out", type=Path, default=OUTPUTS / "assets" / "judges")

    reward = command(train, "reward", train_reward, "a reward head, or the reward model that it learns from")
    reward.add_argument("attribute")
    reward.add_argument("--kind", choices=("rad", "arm"), default="arm", help="the reward model, or the head")
    reward.add_argument("--from", dest="source", choices=("rad", "responses"), default="rad", help="what a head learns")
    reward.add_argument("--base", help=BASE_HELP)
    reward.add_argument("--anchors", type=Path, help="whose mixes a head is to bear; the shipped ones by default")
    reward.add_argument("--data", type=Path, help="more texts; without it the shipped pairs alone")
    reward.add_argument("--work", type=Path, default=REWARDS, help="reward models, unfinished runs and caches")
    reward.add_argument("--out", type=Path, help=OUT_HELP)
    reward.add_argument("--minutes", type=float, help="of a reward model's training")
    reward.add_argument("--lora", type=int, help="a reward model by adapters of this rank, not by all weights")
    reward.add_argument("--rank", type=int, help="of a head")
    reward.add_argument("--reads", choices=("final", "layers", "trunk"), help="what a head reads; `final` can be fused")
    reward.add_argument("--regularizer", type=float, help="how much a head is held to zero on random tokens")
    reward.add_argument("--texts", type=int, help="that a head learns from")


def _anchor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", help=BASE_HELP)
    parser.add_argument("--out", type=Path, help=OUT_HELP)
    parser.add_argument("--steps", type=int, help="optimizer steps an anchor")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--overwrite", action="store_true", help="train again what is already there")


def train_base(options: argparse.Namespace) -> dict:
    """Train a base model."""
    from mixer.training.base import BaseConfig, train_base

    names = ("minutes", "tokens", "layers", "hidden_size", "heads", "rows", "context")
    config = BaseConfig(**{name: getattr(options, name) for name in names})
    return train_base(options.data, options.out, options.work, config)


def train_anchors(options: argparse.Namespace) -> dict:
    """Train one anchor, or all anchors."""
    from mixer.training import anchor

    config = anchor.AnchorConfig(**_given(options, "steps", "rank"))
    base, out = options.base, options.out
    if hasattr(options, "attribute"):
        return anchor.train_anchor(base, options.attribute, options.pole, options.data, out, config, options.overwrite)
    return anchor.train_anchors(base, options.data, out, config, options.overwrite)


def train_attribute(options: argparse.Namespace) -> dict:
    """Train both anchors and the judge of a file of pairs, and say how to open the desk with them."""
    from mixer.training.anchor import AnchorConfig
    from mixer.training.own_attribute import read_own_attribute, train_attribute

    own = read_own_attribute(options.pairs, options.name, options.labels and tuple(options.labels))
    shares = ", ".join(f"{count} for the {split}s" for split, count in own.file.splits.items())
    for line in (*own.file.warnings, f"{options.pairs}: {len(own.file.pairs)} pairs, {shares}."):
        print(line, file=sys.stderr)
    config = AnchorConfig(**_given(options, "steps", "rank"))
    report = train_attribute(own, options.base, options.out, config, options.overwrite)
    judge, out = report["judge"], Path(report["out"])
    where = [] if out.resolve().parent == ANCHORS.resolve() else ["--anchors", str(out)]
    base = ["--base", options.base] if options.base else []
    report["open"] = shlex.join(["python", "-m", "mixer", "page", *base, *where])
    if not options.json:
        print(f"The judge tells {100 * judge['accuracy']:.0f} % of {judge['n']} texts apart that it has not seen.")
        print(f"Open the desk with it: {report['open']}")
    return report


def train_recipe(options: argparse.Namespace) -> dict:
    """Run a recipe, or what an earlier run left of it."""
    from mixer.recipe.file import find_recipe
    from mixer.recipe.run import run_recipe

    report = run_recipe(find_recipe(options.recipe), options.base, options.out, options.data, options.work)
    if not options.json:
        print(report["out"])
    return report


def train_judges(options: argparse.Namespace) -> dict:
    """Train one judge, or all judges."""
    from mixer.training import judge

    if hasattr(options, "attribute"):
        return judge.train_judge(options.attribute, options.data, options.out)
    return judge.train_judges(options.data, options.out)


def train_reward(options: argparse.Namespace) -> dict:
    """Train a reward model (`--kind rad`) or a reward head (`--kind arm`)."""
    from mixer.model.shipped_base import find_base
    from mixer.training import reward_model as rad
    from mixer.training.frozen_base import own_folder
    from mixer.training.head_training import HeadTraining, calibrate_teacher, train_head
    from mixer.training.reward_head import HeadConfig

    base = options.base
    if options.kind == "rad":
        asked = _given(
            options, "minutes", "lora"
        )  # without these options, a reward model that is already trained is used
        teacher = rad.TeacherConfig(**asked) if asked else None
        rad.train_teacher(base, options.attribute, options.data, options.work / options.attribute, teacher)
    out = options.out or (own_folder(base) if options.kind == "arm" else None)
    shipped = find_base(base).anchors
    anchors = options.anchors or (ANCHORS / shipped if shipped else None)
    config = HeadConfig(**_given(options, "source", "rank", "reads", "regularizer", "texts"))
    run = HeadTraining(base, anchors, options.data, options.work, config, final_only=config.reads == "final")
    if options.kind == "rad":
        return calibrate_teacher(options.attribute, run)
    assert out is not None
    return train_head(options.attribute, run, out)


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of these options that were given."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}
