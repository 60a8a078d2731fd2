"""Commands that measure speed beside peers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness.config import DTYPES, PEERS, BenchConfig
from mixer.cli.options import command
from mixer.resources import ROOT


def add(commands: Any) -> None:
    """Add these commands to the parser."""
    bench = commands.add_parser("bench", help="speed, side by side with peers").add_subparsers(
        required=True, metavar="WHAT"
    )
    for name, text in (
        ("moves", "what a slider move costs, from the move to the first token under it"),
        ("decode", "tokens a second at rest, under mixes, and folded"),
        ("batch", "eight mixes in one batch"),
        ("formula", "formulas of several terms in one forward pass, with guesses ahead and without"),
    ):
        added = measured(bench, name, bench_one, text)
        added.set_defaults(what=name)
        added.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    reward = measured(bench, "reward", bench_reward, "reward heads and fused ones, beside reward-augmented decoding")
    reward.add_argument(
        "--teacher", type=Path, help="folder of a trained reward model; one of random output, as costly, by default"
    )
    memory = command(bench, "memory", bench_memory, "what a base of 1.5 billion parameters with twelve anchors takes")
    memory.add_argument("--layers", type=int, default=28)
    memory.add_argument("--hidden", type=int, default=1536)
    page = command(bench, "page", bench_page, "how fast a running page answers a hand, in a real Chromium")
    page.add_argument("url", help="where it runs, such as http://127.0.0.1:7860")
    page.add_argument("--beside", type=int, default=0, metavar="N", help="others who stream all the while")
    page.add_argument("--takes", type=int, default=10, help="texts to steer, each by 12 keys and a drag of 60 moves")
    page.add_argument("--seed", type=int, default=0, help="of the moves")
    soak = command(bench, "soak", bench_soak, "a long trial of the page by several browsers, and what it leaves behind")
    soak.add_argument("url", nargs="?", help="where it runs; left out, it is served for the trial")
    soak.add_argument("--minutes", type=float, default=30)
    soak.add_argument("--pages", type=int, default=4, help="tabs at once")
    soak.add_argument("--pid", type=int, help="the process that serves URL, where it is not found by the port")
    soak.add_argument("--seed", type=int, default=0, help="of what the tabs do")


def measured(bench: Any, name: str, run: Callable[[argparse.Namespace], dict], text: str) -> argparse.ArgumentParser:
    """A benchmark with the options that all of them share."""
    added = command(bench, name, run, text)
    added.add_argument("--quick", action="store_true", help="a short run; its figures are rough")
    added.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of everybody's weights")
    added.add_argument("--threads", type=int, default=0, help="most threads of each system; 0 is all cores")
    added.add_argument("--base", type=Path, default=ROOT / "assets" / "base", help="folder of a Llama-like model")
    added.add_argument("--anchors", type=Path, default=ROOT / "anchors", help="folder of adapters")
    added.add_argument("--seed", type=int, default=0, help="of coefficients and moves")
    return added


def plan_of(options: argparse.Namespace, peers: tuple[str, ...] = ()) -> BenchConfig:
    """What these options ask for."""
    names = ("base", "anchors", "dtype", "threads", "quick", "seed")
    return BenchConfig(**{name: getattr(options, name) for name in names}, peers=peers)


def bench_one(options: argparse.Namespace) -> dict:
    """Run one benchmark; its report."""
    import importlib

    module = importlib.import_module(f"bench.{options.what}")
    report = getattr(module, f"bench_{options.what}")(plan_of(options, tuple(options.peers)))
    if not options.json:
        print(module.table(report))
    return report


def bench_reward(options: argparse.Namespace) -> dict:
    """Tokens a second without rewards, with heads, and with reward-augmented decoding."""
    from bench import reward

    report = reward.bench_reward(plan_of(options), options.teacher)
    if not options.json:
        print(reward.table(report))
    return report


def bench_memory(options: argparse.Namespace) -> dict:
    """Megabytes, seconds to make it, milliseconds a step, microseconds a move."""
    from bench import memory

    report = memory.bench_memory(memory.BaseShape(options.layers, options.hidden))
    if not options.json:
        print(memory.table(report))
    return report


def bench_page(options: argparse.Namespace) -> dict:
    """Milliseconds from a slider's event to painted text under the new mix."""
    from bench import page

    report = page.bench_page(options.url, options.beside, options.takes, options.seed)
    if not options.json:
        print(page.table(report))
    return report


def bench_soak(options: argparse.Namespace) -> dict:
    """Growth in an hour, what went wrong, and what was left at the end."""
    from bench import soak

    report = soak.bench_soak(options.url, options.minutes, options.pages, options.pid, options.seed)
    if not options.json:
        print(soak.table(report))
    return report
