"""What a slider move costs, from the move to the first token under it, beside what peers must do for the same.

Every move is followed by a step under it and a step at rest, so that the step itself can be told from the move.
`keep` goes on with stale keys and values, `refill` recomputes them. Peers: PEFT's scales set on layers looked up once,
PEFT's merge, PEFT's joined adapter, llama.cpp's scales.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.harness.checks import LEAK, REACHED, coefficient_reached, memory_slope
from bench.harness.config import BenchConfig, coefficients
from bench.harness.harness import Harness, Prompt, System, footer, progress, with_harness
from bench.harness.tables import markdown, p50_p95, shown

Move = tuple[int, dict[str, float]]
COUNTS, ROWS, CONTEXTS = (2, 4, 8, 16), 8, (64, 408)
MOVES, ROUNDS, WARM_UP, WALK = 200, 5, 20, 10_000
QUICK_MOVES, QUICK_ROUNDS, QUICK_WALK = 24, 2, 500
NEW_TOKENS = 100  # room for the texts that the moves happen on
OURS, SET, MERGE, JOIN, LLAMA = "mixer", "PEFT, set_scale", "PEFT, unmerge and merge", "PEFT, cat anew", "llama.cpp"


def bench_moves(config: BenchConfig) -> dict[str, Any]:
    """The report: ours over the grid, traces, peers, and the gates."""
    counts = (2, 16) if config.quick else COUNTS

    def run(harness: Harness) -> dict[str, Any]:
        prompts = list({len(p.ids): p for p in (harness.prompt(tokens, NEW_TOKENS) for tokens in CONTEXTS)}.values())
        prompts, short, full = prompts[: 1 if config.quick else 2], prompts[0], harness.anchors
        wrong = gate(harness, short)
        progress("moves: gates")
        gates = laws(harness, short)
        progress("moves: the grid")
        grid = [
            {"anchors": count, "rows": rows, "context": len(prompt.ids), "exact": exact}
            | measure(harness, [OURS], prompt, count, one_of_n, rows, exact)[0]
            for count in counts
            for prompt in prompts
            for rows, exact in ((1, False), (ROWS, False), (1, True))
        ]
        progress("moves: traces")
        traces = [{"trace": trace.__name__} | measure(harness, [OURS], short, full, trace)[0] for trace in TRACES]
        progress("moves: peers")
        live = [label for label in (OURS, SET, LLAMA) if takes_part(harness, label, wrong)]
        slow = [label for label in (MERGE, JOIN) if takes_part(harness, label, wrong)]
        peers = [
            {"anchors": count, "exact": exact} | row
            for count, exact, labels in (
                *((count, False, live) for count in counts),
                (full, False, [*live, *slow]),
                (full, True, live),
            )
            for row in measure(harness, labels, short, count, one_of_n, exact=exact)
        ]
        return {"gates": gates, "grid": grid, "traces": traces, "peers": peers, "wrong": wrong}

    return with_harness(config, counts, run)


# Traces: what hands do. Each gives `count` moves of `sliders` sliders.


def one_of_n(rng: random.Random, sliders: int, rows: int, count: int) -> list[Move]:
    """One slider, anywhere."""
    return [(i % rows, {str(rng.randrange(sliders)): rng.uniform(-1, 1)}) for i in range(count)]


def all_n(rng: random.Random, sliders: int, rows: int, count: int) -> list[Move]:
    """All sliders at once."""
    return [(i % rows, {str(s): rng.uniform(-1, 1) for s in range(sliders)}) for i in range(count)]


def jump(rng: random.Random, sliders: int, rows: int, count: int) -> list[Move]:
    """One slider from pole to pole."""
    return [(i % rows, {"0": 1.0 if i % 2 else -1.0}) for i in range(count)]


def drag(rng: random.Random, sliders: int, rows: int, count: int) -> list[Move]:
    """One slider dragged to and fro at 60 moves a second for three seconds."""
    return [(i % rows, {"0": math.sin(i / 60 * math.tau / 2)}) for i in range(min(count, 180))]


def to_zero(rng: random.Random, sliders: int, rows: int, count: int) -> list[Move]:
    """All sliders to rest, and one away from it again."""
    return [(i % rows, {str(s): 0.0 for s in range(sliders)} if i % 2 else {"0": 0.8}) for i in range(count)]


def beyond(rng: random.Random, sliders: int, rows: int, count: int) -> list[Move]:
    """One slider beyond its poles."""
    return [(i % rows, {"0": 1.5 if i % 2 else -1.5}) for i in range(count)]


TRACES: tuple[Callable[..., list[Move]], ...] = (jump, drag, one_of_n, all_n, to_zero, beyond)


def takes_part(harness: Harness, label: str, wrong: dict[str, float]) -> bool:
    """Whether a system runs and is right."""
    host = {OURS: "mixer", LLAMA: "llama.cpp"}.get(label, "peft")
    return label not in wrong and (host == "mixer" or harness.has(host))


def ask(harness: Harness, label: str, prompt: Prompt, anchors: int, moves: list[Move], rows: int, exact: bool) -> dict:
    """Let one system make these moves."""
    if label == OURS:
        system, values = System(label, "mixer", []), {"rows": rows}
    elif label == LLAMA:
        system, values = System(label, "llama.cpp", []), {}
    else:
        system, values = System(label, "torch", []), {"mode": {SET: "active", MERGE: "merge", JOIN: "cat"}[label]}
    return harness.ask(system, "moves", prompt, anchors=anchors, moves=moves, exact=exact, **values)


def measure(
    harness: Harness,
    labels: list[str],
    prompt: Prompt,
    anchors: int,
    trace: Callable[..., list[Move]],
    rows: int = 1,
    exact: bool = False,
) -> list[dict[str, Any]]:
    """Figures of each system over the same moves, in rounds that take turns."""
    count, rounds = (QUICK_MOVES, QUICK_ROUNDS) if harness.config.quick else (MOVES, ROUNDS)
    rng = random.Random(f"{harness.config.seed}/{trace.__name__}/{anchors}")
    warm_up = one_of_n(rng, anchors // 2, rows, WARM_UP // 4 if harness.config.quick else WARM_UP)
    moves = trace(rng, anchors // 2, rows, count)
    each = math.ceil(len(moves) / rounds)
    taken: dict[str, dict[str, list[float]]] = {label: {} for label in labels}
    for label in labels:
        ask(harness, label, prompt, anchors, warm_up, rows, exact)
    for turn in range(rounds):
        for place in range(len(labels)):
            label = labels[(place + turn) % len(labels)]
            part = ask(harness, label, prompt, anchors, moves[turn * each : (turn + 1) * each], rows, exact)
            for key, values in part.items():
                taken[label].setdefault(key, []).extend(values if isinstance(values, list) else [values])
    return [{"system": label} | figures(taken[label]) for label in labels]


def figures(taken: dict[str, list[float]]) -> dict[str, float]:
    """Percentiles of the parts of a move; `extra` is what its first token takes beyond a step at rest."""
    apply, first = p50_p95(taken["apply"], 1e6), p50_p95(taken["first"])
    extra = float(np.median(np.subtract(taken["first"], taken["rest"]))) * 1e3
    found = {"apply_p50_us": apply[0], "apply_p95_us": apply[1], "first_p50_ms": first[0], "first_p95_ms": first[1]}
    found |= {"rest_p50_ms": p50_p95(taken["rest"])[0], "extra_ms": extra}
    return found | ({"drift": max(taken["drift"])} if "drift" in taken else {})


def gate(harness: Harness, prompt: Prompt) -> dict[str, float]:
    """Systems that do not agree with the reference at random coefficients, with how far they are off."""
    mix = coefficients(harness.anchors, harness.anchors, harness.config.seed)
    systems = [System(OURS, "mixer", mix)]
    if harness.has("peft"):
        systems += [System(SET, "torch", mix, {"mode": "active"}), System(MERGE, "torch", mix, {"mode": "merge"})]
        systems += [System(JOIN, "torch", mix, {"mode": "cat"})]
    if harness.has("llama.cpp"):
        systems.append(System(LLAMA, "llama.cpp", mix))
        harness.tune(systems[-1], prompt)
    verdicts = harness.check_all(systems, prompt, 0)
    return {label: verdict.off for label, verdict in verdicts.items() if not verdict.right}


def laws(harness: Harness, prompt: Prompt) -> dict[str, Any]:
    """The desk's own gates: what a drag reaches, W0, memory and recompiles after a long walk."""
    desk, moves = harness.workers["mixer"], QUICK_WALK if harness.config.quick else WALK
    reached = coefficient_reached(desk.ask("drag", prompt=prompt.text, anchors=harness.anchors, steps=90, tokens=8))
    walk = desk.ask("walk", prompt=prompt.text, anchors=harness.anchors, moves=moves)
    grown = memory_slope(walk["memory"])
    return {
        "reached": reached,
        "reached_right": abs(reached - 1) <= REACHED,
        "moves": moves,
        "same_weights": walk["same_weights"],
        "bytes_a_move": grown,
        "memory_flat": grown * moves <= LEAK,
        "recompiles": walk["recompiles"],
    }


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    laws, lines = report["gates"], [f"{report['dtype']}, {report['threads']} threads", ""]
    rows = [
        ["coefficient after a drag from 0 to 1", f"{laws['reached']:.5f}", laws["reached_right"]],
        [f"W0 after {laws['moves']:,} moves", "", laws["same_weights"]],
        ["memory, bytes a move", laws["bytes_a_move"], laws["memory_flat"]],
        ["recompiles", laws["recompiles"], laws["recompiles"] == 0],
    ]
    lines += [markdown(["gate", "", "holds"], [[a, b, "yes" if good else "NO"] for a, b, good in rows]), ""]
    head = ["apply p50 / p95 (µs)", "first token p50 / p95 (ms)", "step at rest (ms)", "move beyond a step (ms)"]
    grid = [
        [row["anchors"], row["rows"], row["context"], "refill" if row["exact"] else "keep", *cells(row)]
        for row in report["grid"]
    ]
    lines += [markdown(["anchors", "rows", "context", "cache", *head], grid), ""]
    lines += [markdown(["trace", *head], [[row["trace"], *cells(row)] for row in report["traces"]]), ""]
    peers = [
        [row["system"], row["anchors"], "exact" if row["exact"] else "stale", *cells(row)] for row in report["peers"]
    ]
    lines += [markdown(["one slider", "anchors", "cache", *head], peers), ""]
    lines += [
        f"One slider at {a} anchors costs {times:.2f} times what it costs at {b}: {what}."
        for what, a, b, times in growth(report)
    ]
    lines += [
        f"{row['system']}: {100 * row['drift']:.1f} % of the adapted weights differ from W0 after the run."
        for row in report["peers"]
        if "drift" in row
    ]
    lines += [f"{label} is wrong (off by {off:.3g}) and was not timed." for label, off in report["wrong"].items()]
    return "\n".join([*lines, "", *footer(report)])


def growth(report: dict[str, Any]) -> list[tuple[str, int, int, float]]:
    """How a one-slider move's cost grows from the fewest to the most anchors."""
    own = [row for row in report["grid"] if row["rows"] == 1 and not row["exact"]]
    own = [row for row in own if row["context"] == own[0]["context"]]
    few, many = own[0], own[-1]
    return [
        (what, many["anchors"], few["anchors"], many[key] / few[key])
        for what, key in (
            ("apply", "apply_p50_us"),
            ("the move beyond a step", "extra_ms"),
            ("the move and the step under it, which reads more live anchors", "first_p50_ms"),
        )
    ]


def cells(row: dict[str, Any]) -> list[str]:
    """The four figures of a row."""
    return [
        f"{shown(row['apply_p50_us'])} / {shown(row['apply_p95_us'])}",
        f"{shown(row['first_p50_ms'])} / {shown(row['first_p95_ms'])}",
        shown(row["rest_p50_ms"]),
        shown(row["extra_ms"]),
    ]
