"""Commands that measure what the sliders do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixer.cli.bench import add_door
from mixer.cli.options import command, load_desk
from mixer.errors import InvalidValue
from mixer.resources import ANCHORS, JUDGES, OUTPUTS
from mixer.values.mix import RULES

if TYPE_CHECKING:
    from mixer.desk import Desk


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    evaluate = commands.add_parser("evaluate", help="measure what the sliders do").add_subparsers(
        required=True, metavar="WHAT"
    )
    control = command(
        evaluate, "control", evaluate_control, "judges' scores at the poles of every attribute", desk=True
    )
    control.add_argument("--prompts", type=int, default=50, help="held-out openings to continue")
    control.add_argument("--chat", action="store_true", help="reply to requests instead")
    control.add_argument("--attributes", nargs="+", help="all that have a judge by default")
    control.add_argument(
        "--outside", type=Path, metavar="DATA", help="score by judges that are trained on DATA/attributes alone"
    )
    control.add_argument("--tokens", type=int, default=60)
    control.add_argument("--positions", type=float, nargs="+", default=[-1.0, 0.0, 1.0])
    control.add_argument("--rule", choices=RULES, default="offset")
    control.add_argument("--seed", type=int, default=7)
    control.add_argument("--out", type=Path, help="write the report there as JSON")
    coupling = command(
        evaluate,
        "coupling",
        evaluate_coupling,
        "what every slider does to every judge; writes coupling.json",
        desk=True,
    )
    parts: tuple[str, ...] = ("FIT", "PREDICT", "CHECK")
    coupling.add_argument("--prompts", type=int, nargs=3, default=[48, 48, 96], metavar=parts, help="held-out openings")
    coupling.add_argument("--mixes", type=int, nargs=2, default=[64, 32], metavar=parts[:2], help="at random")
    coupling.add_argument("--tokens", type=int, default=60)
    coupling.add_argument("--seed", type=int, default=7)
    formulas = command(evaluate, "formulas", evaluate_formulas, "what known formulas change, by judges", desk=True)
    formulas.add_argument(
        "--presets", type=Path, metavar="FILE", help="other formulas under the shipped presets' names"
    )
    formulas.add_argument("--prompts", type=int, default=50, help="held-out openings to continue")
    formulas.add_argument("--tokens", type=int, default=60)
    formulas.add_argument("--seed", type=int, default=7)
    formulas.add_argument("--out", type=Path, help="write the report there as JSON")
    card = command(
        evaluate,
        "card",
        evaluate_card,
        "write MODEL_CARD.md from the reports beside the anchors, and samples",
        desk=True,
    )
    card.add_argument("--license", help="of the base; that of the recipe by default, where there is one")

    add_door(evaluate, "rewards", ("fidelity",), "how closely reward heads follow their reward model")
    add_door(evaluate, "steering", ("steering",), "what reward heads write, against their reward model")


def evaluate_control(options: argparse.Namespace) -> dict:
    """Measure the judges' mean scores along every slider."""
    from mixer.measure.control import base_loglikelihoods, control, held_out_prompts, requests
    from mixer.measure.outside_judges import OutsideJudges

    report = control(
        load_desk(options),
        requests(options.prompts) if options.chat else held_out_prompts(count=options.prompts),
        options.attributes,
        positions=options.positions,
        tokens=options.tokens,
        seed=options.seed,
        rule=options.rule,
        loglikelihoods=base_loglikelihoods(options.base),
        outside=OutsideJudges(options.outside) if options.outside else None,
    )
    return _write_report(report, options)


def evaluate_coupling(options: argparse.Namespace) -> dict:
    """Measure what every slider does to every judge, and write the calibration beside the anchors."""
    from mixer.measure.control import base_loglikelihoods
    from mixer.measure.coupling import coupling

    desk = load_desk(options)
    report = coupling(
        desk,
        each=tuple(options.prompts),
        mixes=tuple(options.mixes),
        tokens=options.tokens,
        seed=options.seed,
        loglikelihoods=base_loglikelihoods(options.base),
    )
    path = report.save(desk, _anchors_folder(options, desk))
    if not options.json:
        print(report.table(), path, sep="\n\n")
    return {"calibration": str(path), **report.record()}


def evaluate_formulas(options: argparse.Namespace) -> dict:
    """Measure the judges' mean scores with the shipped formulas and without."""
    from mixer.files.presets import load_presets
    from mixer.measure.control import base_loglikelihoods, held_out_prompts
    from mixer.measure.presets import formulas

    report = formulas(
        load_desk(options),
        load_presets(options.presets) if options.presets else None,
        prompts=held_out_prompts(count=options.prompts),
        tokens=options.tokens,
        seed=options.seed,
        loglikelihoods=base_loglikelihoods(options.base),
    )
    return _write_report(report, options)


def _write_report(report: Any, options: argparse.Namespace) -> dict:
    """Print a report, write it to `--out` if that is given, and return it."""
    found = json.loads(report.to_json())
    if not options.json:
        print(report.table())
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def evaluate_card(options: argparse.Namespace) -> dict:
    """Write the model card. Returns its path."""
    from mixer.measure.card import make_card
    from mixer.model.base import local_folder
    from mixer.model.shipped_base import find_base
    from mixer.recipe.facts import card_facts

    base = find_base(options.base)
    desk = load_desk(options)
    out = _anchors_folder(options, desk)
    anchors = local_folder(options.anchors) if options.anchors else ANCHORS / out.name
    source = Path(base.source)
    own_base = source if (source / "training.json").is_file() else None
    path = make_card(desk, card_facts(anchors, base.name, options.license), anchors, JUDGES, own_base, out)
    if not options.json:
        print(path)
    return {"card": str(path)}


def _anchors_folder(options: argparse.Namespace, desk: Desk) -> Path:
    """Where reports about the anchors go: beside them, or below `anchors` where the shipped ones are in the package.

    Raises:
        InvalidValue: none are shipped for the base, and no folder is given.
    """
    from mixer.adapters.fingerprint import base_fingerprint
    from mixer.loader import shipped_anchors

    shipped = None if options.anchors else shipped_anchors(base_fingerprint(desk.base_model))
    if not options.anchors and shipped is None:
        raise InvalidValue(f"No anchors are shipped for {desk.name}.", "Give --anchors their folder.")
    folder = Path(options.anchors) if shipped is None else OUTPUTS / "anchors" / shipped.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
