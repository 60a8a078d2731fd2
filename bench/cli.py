"""The command line of the benchmarks: `python -m bench WHAT`, in a checkout of the repository.

Tables go to stdout, progress to stderr. With `--json` the last line of stdout is one JSON object.
Exit codes: 0 done, 2 bad input (one line on stderr). Each command imports its benchmark only when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.harness.config import DTYPES, PEERS, BenchConfig
from mixer.cli.options import REWARDS, command
from mixer.errors import BadArtifact, MixerError
from mixer.process import quiet_libraries
from mixer.resources import BASE, JUDGES, TINY_ANCHORS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark; returns the exit code."""
    options = parser().parse_args(argv)
    quiet_libraries()
    try:
        report = options.run(options)
    except MixerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps(report, ensure_ascii=False))
    return 0


def parser(name: str = "bench") -> argparse.ArgumentParser:
    """All benchmarks and their options; `name` is what usage lines begin with."""
    root = argparse.ArgumentParser(name, description="Benchmarks of the mixing desk.")
    commands = root.add_subparsers(required=True, metavar="WHAT")
    _speed_commands(commands)
    _page_commands(commands)
    _study_commands(commands)
    return root


def _speed_commands(commands: Any) -> None:
    for name, text in (
        ("moves", "what a slider move costs, from the move to the first token under it"),
        ("decode", "tokens a second at rest, under mixes, and folded"),
        ("batch", "eight mixes in one batch"),
        ("formula", "formulas of several terms in one forward pass, with drafts and without"),
    ):
        added = _speed_command(commands, name, run_speed, text)
        added.set_defaults(what=name)
        added.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    reward = _speed_command(
        commands, "reward", run_reward, "reward heads and fused ones, beside reward-augmented decoding"
    )
    reward.add_argument(
        "--teacher", type=Path, help="folder of a trained reward model; one of random output, as costly, by default"
    )
    memory = command(commands, "memory", run_memory, "what a base of 1.5 billion parameters with twelve anchors takes")
    memory.add_argument("--layers", type=int, default=28)
    memory.add_argument("--hidden", type=int, default=1536)


def _speed_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], dict], text: str
) -> argparse.ArgumentParser:
    """A command with the options that all speed benchmarks share."""
    added = command(commands, name, run, text)
    added.add_argument("--quick", action="store_true", help="a short run; its figures are rough")
    added.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the weights of all systems")
    added.add_argument("--threads", type=int, default=0, help="most threads of each system; 0 is all cores")
    added.add_argument("--base", type=Path, default=BASE, help="folder of a Llama-like model")
    added.add_argument("--anchors", type=Path, default=TINY_ANCHORS, help="folder of adapters")
    added.add_argument("--seed", type=int, default=0, help="of coefficients and moves")
    return added


def _page_commands(commands: Any) -> None:
    page = command(commands, "page", run_page, "how fast a running page answers its user, in a real Chromium")
    page.add_argument("url", help="where it runs, such as http://127.0.0.1:7860")
    page.add_argument("--beside", type=int, default=0, metavar="N", help="other users who stream all the while")
    page.add_argument("--takes", type=int, default=10, help="texts to steer, each by 12 keys and a drag of 60 moves")
    page.add_argument("--seed", type=int, default=0, help="of the moves")
    soak = command(
        commands, "soak", run_soak, "a long trial of the page by several browsers, and what it leaves behind"
    )
    soak.add_argument("url", nargs="?", help="where it runs; if left out, the trial serves the page itself")
    soak.add_argument("--minutes", type=float, default=30)
    soak.add_argument("--pages", type=int, default=4, help="tabs at once")
    soak.add_argument("--pid", type=int, help="the process that serves URL, where it is not found by the port")
    soak.add_argument("--seed", type=int, default=0, help="of what the tabs do")


def _study_commands(commands: Any) -> None:
    fidelity = command(commands, "fidelity", run_fidelity, "how closely reward heads follow their reward model")
    _study_options(fidelity)
    fidelity.add_argument("--sweep", action="store_true", help="also other ranks, and the regularizer")

    steering = command(commands, "steering", run_steering, "what reward heads write, against their reward model")
    _study_options(steering)
    steering.add_argument("--fluency", type=Path, metavar="FOLDER", help="a causal LM for perplexities; else the base")
    steering.add_argument("--prompts", type=int, default=300, help="held-out openings to continue")
    steering.add_argument("--tokens", type=int, default=32)
    steering.add_argument("--seed", type=int, default=7)
    steering.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the curves there as SVG")

    plots = command(commands, "plots", run_plots, "draw the curves of a steering report again")
    plots.add_argument("report", type=Path, help="what `steering --out` wrote, such as anchors/steering.json")
    plots.add_argument("folder", type=Path, help="where the SVG files go, such as docs/plots")


def _study_options(added: argparse.ArgumentParser) -> None:
    """The options that both reward studies share."""
    added.add_argument("attributes", nargs="+")
    added.add_argument("--data", type=Path, help="more texts; without it the shipped pairs alone")
    added.add_argument("--work", type=Path, default=REWARDS, help="reward models, caches, and texts that were written")
    added.add_argument("--texts", type=int, default=4800, help="that heads learn from")
    added.add_argument("--out", type=Path, help="write the reports there as JSON")


def config_of(options: argparse.Namespace, peers: tuple[str, ...] = ()) -> BenchConfig:
    """What the options of a speed benchmark ask for."""
    names = ("base", "anchors", "dtype", "threads", "quick", "seed")
    return BenchConfig(**{name: getattr(options, name) for name in names}, peers=peers)


def run_speed(options: argparse.Namespace) -> dict:
    """Run `moves`, `decode`, `batch` or `formula`; its report."""
    module = importlib.import_module(f"bench.{options.what}")
    report = getattr(module, f"bench_{options.what}")(config_of(options, tuple(options.peers)))
    return _shown(module, report, options)


def run_reward(options: argparse.Namespace) -> dict:
    """Tokens a second without rewards, with heads, and with reward-augmented decoding."""
    from bench import reward

    return _shown(reward, reward.bench_reward(config_of(options), options.teacher), options)


def run_memory(options: argparse.Namespace) -> dict:
    """Megabytes, seconds to make the model, milliseconds a step, microseconds a move."""
    from bench import memory

    return _shown(memory, memory.bench_memory(memory.BaseShape(options.layers, options.hidden)), options)


def run_page(options: argparse.Namespace) -> dict:
    """Milliseconds from a slider's event to painted text under the new mix."""
    from bench import page

    return _shown(page, page.bench_page(options.url, options.beside, options.takes, options.seed), options)


def run_soak(options: argparse.Namespace) -> dict:
    """Growth in an hour, what went wrong, and what was left at the end."""
    from bench import soak

    report = soak.bench_soak(options.url, options.minutes, options.pages, options.pid, options.seed)
    return _shown(soak, report, options)


def run_fidelity(options: argparse.Namespace) -> dict:
    """Reward heads against their reward models, at held-out positions of texts."""
    from bench.steering_study.fidelity import rewards
    from mixer.training.head_training import HeadTraining
    from mixer.training.reward_head import HeadConfig

    training = HeadTraining(BASE, TINY_ANCHORS, options.data, options.work, HeadConfig(texts=options.texts))
    found = {}
    for attribute in options.attributes:
        report = rewards(attribute, training, options.sweep)
        found[attribute] = json.loads(report.to_json())
        if not options.json:
            print(report.table(), end="\n\n")
        _write_out(found, options)
    return found


def run_steering(options: argparse.Namespace) -> dict:
    """Reward heads against their reward models, in what they write."""
    from bench.steering_study.steering import steering
    from mixer.judges.linear import load_judges
    from mixer.measure.control import base_loglikelihoods
    from mixer.training.head_training import HeadTraining
    from mixer.training.reward_head import HeadConfig

    training = HeadTraining(BASE, TINY_ANCHORS, options.data, options.work, HeadConfig(texts=options.texts))
    loglikelihoods = base_loglikelihoods(options.fluency or BASE)
    fluency, judges = options.fluency.name if options.fluency else "the base itself", load_judges(JUDGES)
    found = {}
    for attribute in options.attributes:
        sizes = {"prompts": options.prompts, "tokens": options.tokens, "seed": options.seed}
        report = steering(attribute, training, TINY_ANCHORS, judges, loglikelihoods, fluency, **sizes)
        found[attribute] = json.loads(report.to_json())
        if not options.json:
            print(report.table(), report.details(), sep="\n\n", end="\n\n")
        _write_out(found, options)
        if options.plots:
            _write_plots(report, options.plots)
    return found


def run_plots(options: argparse.Namespace) -> dict:
    """The charts of a saved report, drawn again."""
    from bench.steering_study.report import SteeringReport

    try:
        record = json.loads(options.report.read_text(encoding="utf-8"))
        reports = [SteeringReport.from_record(own) for own in record.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(
            f"{options.report} is no steering report: {error}.", "Give what `steering --out` wrote."
        ) from error
    paths = [path for report in reports for path in _write_plots(report, options.folder)]
    if not options.json:
        print(*paths, sep="\n")
    return {"plots": list(map(str, paths))}


def _shown(module: Any, report: dict, options: argparse.Namespace) -> dict:
    """The report, after its table was printed."""
    if not options.json:
        print(module.table(report))
    return report


def _write_out(found: dict, options: argparse.Namespace) -> None:
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _write_plots(report: Any, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, chart in report.plots().items():
        paths.append(folder / name)
        paths[-1].write_text(chart, encoding="utf-8")
    return paths
