"""What rewards cost at batch 1 and 16: heads, fused heads, and reward-augmented decoding (RAD) beside them.

RAD asks a network as large as the base about the 20 likeliest tokens, in one pass or, as its own code does, in 20; one
head answers the same question from the base's final state. Before anything is timed, every way is held against plain
torch.

Sources: arXiv 2310.09520 (RAD), arXiv 2407.04615 (heads).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bench.formula import opening_of
from bench.harness.config import BenchConfig
from bench.harness.harness import footer, progress, with_facts
from bench.harness.tables import markdown, percent, shown
from bench.harness.worker import Worker
from mixer.errors import InvalidValue
from mixer.rewards.files import find_rewards

CONTEXTS, BATCHES, ROUNDS, QUICK_ROUNDS = (64, 376), (1, 16), 15, 2
TOKENS, FEW = {1: 64, 16: 32}, {1: 64, 16: 16}  # by batch; few for the slowest way, and those it is compared with
QUICK_TOKENS, QUICK_FEW = 8, 4
HEADS, REACH = 6, 20
SHOWN, FAINT, STRONG = 0.3, 0.001, 3.0  # sliders in gates; in timing, so that texts stay the same; at a budget's limit
BUDGET = 0.1
AGREES = 1e-4  # nats, and units of reward
FUSED_MOST, TREE_LEAST, SEQUENTIAL_LEAST = 0.03, 2.0, 10.0

NONE, SLACK, BOUND, WHOLE = "no rewards", "heads", "heads, budget reached", "heads, budget from the bare base"
FUSED, APART, ONE = "heads, fused", "heads, a product each", "one head, k = 20"
TREE, SEQUENTIAL = "RAD, k = 20, one pass", "RAD, k = 20, a pass a token"


@dataclass(frozen=True)
class RewardMethod:
    """One way of steering.

    Attributes:
        steering: of `mixer.Steering`.
        separate: whether each head's rewards of all tokens are computed and added; see `steered.SeparateHeads`.
    """

    label: str
    steering: dict[str, Any]
    separate: bool = False


def methods_of(heads: Sequence[str], at: float) -> list[RewardMethod]:
    """Every way, those with several heads by up to `HEADS` of these, half of them at a position and half opposite."""

    def stand(far: float) -> dict[str, float]:
        return {name: far if place % 2 else -far for place, name in enumerate(heads[:HEADS])}

    def alone(name: str) -> dict[str, Any]:
        return {"positions": {name: 1.0}, "reach": REACH, "cut": True, "budget": None}

    return [
        RewardMethod(NONE, {}),
        RewardMethod(SLACK, {"positions": stand(at), "budget": 20.0}),
        RewardMethod(BOUND, {"positions": stand(STRONG), "budget": BUDGET}),
        RewardMethod(WHOLE, {"positions": stand(at), "whole": True}),
        RewardMethod(FUSED, {"positions": stand(at), "fused": True, "budget": None}),
        RewardMethod(APART, {"positions": stand(at), "budget": None}, separate=True),
        RewardMethod(ONE, alone(heads[0])),
        RewardMethod(TREE, alone("tree")),
        RewardMethod(SEQUENTIAL, alone("sequential")),
    ]


def bench_reward(config: BenchConfig, teacher: Path | None = None) -> dict[str, Any]:
    """The report: gates, then a section a context and batch.

    Args:
        teacher: folder of a trained reward model for RAD; None for one of random output, which costs the same.

    Raises:
        InvalidValue: there are no reward heads.
    """

    if not find_rewards(config.anchors):
        raise InvalidValue(f"There are no reward heads in {config.anchors}.", "Train some: `train reward`.")

    def run() -> dict[str, Any]:
        own = {"dtype": config.dtype, "teacher": str(teacher) if teacher else None}
        with Worker("rewards", config.threads, base=str(config.base), anchors=str(config.anchors), **own) as worker:
            facts = worker.ready()
            return measured(config, worker, facts) | {"trained": teacher is not None, "missing": {}, "facts": facts}

    return with_facts(config, run)


def measured(config: BenchConfig, worker: Worker, facts: dict[str, Any]) -> dict[str, Any]:
    """Gates and sections."""
    tokenizer, methods = Tokenizer.from_file(str(config.base / "tokenizer.json")), methods_of(facts["heads"], FAINT)
    rounds = QUICK_ROUNDS if config.quick else ROUNDS
    longest = QUICK_TOKENS if config.quick else max(TOKENS.values())
    contexts = CONTEXTS[:1] if config.quick else CONTEXTS
    contexts = sorted({min(context, facts["context"] - longest) for context in contexts})
    checked_methods = methods_of(facts["heads"], SHOWN)
    gates = check_all(worker, checked_methods, opening_of(tokenizer, contexts[0]).text, longest, config.seed)
    sections = []
    for context in contexts if all(gate["right"] for gate in gates) else []:
        for batch in BATCHES:
            progress(f"reward: context {context}, batch {batch}, {rounds} rounds")
            tokens, few = (QUICK_TOKENS, QUICK_FEW) if config.quick else (TOKENS[batch], FEW[batch])
            steps: dict[str, list[list[float]]] = {method.label: [] for method in methods}
            nats: dict[str, list[float]] = {method.label: [] for method in methods}
            for turn in range(rounds + 1):
                prompts = [opening_of(tokenizer, context, turn * batch + row).text for row in range(batch)]
                for place in range(len(methods)):
                    method = methods[(place + turn) % len(methods)]
                    asked = {"tokens": few if method.label == SEQUENTIAL else tokens, "seed": config.seed + turn}
                    text = worker.ask(
                        "write", prompts=prompts, **asked, steering=method.steering, separate=method.separate
                    )
                    if turn:  # the first round warms up
                        steps[method.label].append(text["steps"])
                        nats[method.label].append(text["nats"])
            sections.append({"context": context, "batch": batch, "tokens": tokens} | compared(steps, nats, batch))
    return {"rounds": rounds, "heads": facts["heads"][:HEADS], "gates": gates, "sections": sections}


def check_all(
    worker: Worker, methods: Sequence[RewardMethod], prompt: str, tokens: int, seed: int
) -> list[dict[str, Any]]:
    """What each way must show before it is timed: how far it is off, and how far it may be."""
    asked, found = {"prompt": prompt, "tokens": tokens, "seed": seed}, []

    def note(what: str, off: float, most: float) -> None:
        found.append({"what": what, "off": off, "most": most, "right": off <= most})  # NaN is wrong too
        if not found[-1]["right"]:
            progress(f"wrong: {what}: {off:.3g}, at most {most:.3g}")

    for method in methods:
        names, steering = method.steering.get("positions", {}), method.steering
        if names and not steering.get("whole"):  # which takes a row of its own, at rest too
            rest = steering | {"positions": dict.fromkeys(names, 0.0)}
            off = worker.ask("at_rest", **asked, steering=rest)
            note(f"{method.label}: at position 0 as without rewards, to the bit", off, 0.0)
        if method.label == TREE:
            seen = worker.ask("by_model", **asked, steering=steering | {"positions": {"compared": 1.0}})
            note(f"{method.label}: as a pass a token", seen["off"], AGREES)
            note("RAD: share of rewards at their bounds", 1 - seen["inside"], 0.99)
        elif names and method.label != SEQUENTIAL:
            seen = worker.ask("by_heads", **asked, steering=steering, separate=method.separate)
            whom = (
                "the D x D matrix"
                if steering.get("fused") or method.separate
                else "`mixer.rewards.reference.steer_logprobs`"
            )
            note(f"{method.label}: as {whom} says", seen["off"], AGREES)
            if method.label in (SLACK, BOUND, WHOLE):
                note(f"{method.label}: most nats of a step", seen["nats"], steering.get("budget", 1.0))
    return found


def compared(steps: dict[str, list[list[float]]], nats: dict[str, list[float]], batch: int) -> dict[str, Any]:
    """A section's figures.

    Args:
        steps: by way, seconds of each step of each round. nats: by way, nats a token of each round.
    """
    rows = []
    for label, taken in steps.items():
        seconds = statistics.median(statistics.mean(own) for own in taken)
        row = {"method": label, "tokens_per_second": batch / seconds, "ms": 1e3 * seconds}
        rows.append(row | {"times": spread(taken, steps[NONE]), "nats": statistics.mean(nats[label])})
    faster = {
        f"{own} / {rad}": spread(steps[rad], steps[own]) for own in (ONE, SLACK, FUSED) for rad in (TREE, SEQUENTIAL)
    }
    faster[f"{FUSED} / {APART}"] = spread(steps[APART], steps[FUSED])
    return {"rows": rows, "faster": faster}


def spread(slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]]) -> dict[str, float]:
    """How many times as long one way takes as another, each round's texts side by side, as far as both go: the median
    over rounds, and the quartiles."""
    ratios = []
    for a, b in zip(slow, fast, strict=True):
        count = min(len(a), len(b))
        ratios.append(sum(a[:count]) / sum(b[:count]))
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    facts = report["facts"]
    lines = [
        f"{len(report['heads'])} heads, {facts['vocab']:,} tokens of {facts['size']} numbers, {report['dtype']}, "
        f"{report['threads']} threads, {report['rounds']} rounds",
        "RAD's reward model was trained." if report["trained"] else "RAD's reward model is random: it costs the same.",
        "",
    ]
    gates = [[g["what"], f"{g['off']:.2g}", f"{g['most']:.2g}", "" if g["right"] else "wrong"] for g in report["gates"]]
    lines.append(markdown(["before any timing", "largest", "limit", ""], gates))
    if not report["sections"]:
        lines += ["", "Not timed."]
    for part in report["sections"]:
        head = [f"context {part['context']}, batch {part['batch']}", "tokens/s", "ms a step"]
        head += ["times as long as without", "nats a token"]
        rows = [[r["method"], r["tokens_per_second"], r["ms"], _span(r["times"]), r["nats"]] for r in part["rows"]]
        faster = [[name, _span(times)] for name, times in part["faster"].items()]
        lines += ["", markdown(head, rows), "", markdown(["times as fast", "median [quartiles]"], faster), ""]
        lines += targets(part)
    return "\n".join([*lines, "", *footer(report)])


def targets(part: dict[str, Any]) -> list[str]:
    """What was aimed for, and whether it is there."""
    fused = next(row["times"]["median"] for row in part["rows"] if row["method"] == FUSED) - 1
    aims = [(f"{FUSED}: {percent(fused)} a step, {percent(FUSED_MOST)} at most", fused <= FUSED_MOST)]
    for rad, least in ((TREE, TREE_LEAST), (SEQUENTIAL, SEQUENTIAL_LEAST)):
        times = part["faster"][f"{ONE} / {rad}"]["median"]
        aims.append((f"{ONE}: {shown(times)} times as fast as {rad}, {least:g} at least", times >= least))
    return [f"- {text}: {'yes' if reached else 'no'}" for text, reached in aims if part["batch"] == 1 or ONE in text]


def _span(times: dict[str, float]) -> str:
    return f"{times['median']:.3g} [{times['low']:.3g}, {times['high']:.3g}]"
