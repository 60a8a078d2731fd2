"""Tokens a second at batch 1: the desk at rest, with some and all anchors live, and folded, beside its peers.

Decoding is timed from the first token to the last, and the first token, which reads the prompt, apart. Rounds
interleave all systems.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from bench.harness.config import BenchConfig, coefficients
from bench.harness.cost import cost
from bench.harness.harness import Harness, Prompt, System, footer, progress, with_harness
from bench.harness.tables import markdown, p50_p95, percent, ratio, shown

CONTEXTS, TOKENS, ROUNDS = (64, 376), 128, 9
QUICK_CONTEXTS, QUICK_TOKENS, QUICK_ROUNDS = CONTEXTS[:1], 32, 2
REST, SOME, ALL, FOLDED = "mixer, at rest", "mixer, a third live", "mixer, all live", "mixer, all folded"


def bench_decode(config: BenchConfig) -> dict[str, Any]:
    """The report: a section a context, each with rows, ratios and what the bytes say."""
    full = CONTEXTS, TOKENS, ROUNDS
    contexts, tokens, rounds = (QUICK_CONTEXTS, QUICK_TOKENS, QUICK_ROUNDS) if config.quick else full

    def run(harness: Harness) -> dict[str, Any]:
        systems = contestants(harness)
        sections, settings = [], {}
        for context in sorted({min(context, harness.context - tokens) for context in contexts}):
            settings |= tuned(harness, systems, harness.prompt(context, tokens))
            progress(f"decode: context {context}, {len(systems)} systems, {rounds} rounds of {tokens} tokens")
            sections.append(section(harness, systems, context, tokens, rounds))
        return {"tokens": tokens, "rounds": rounds, "sections": sections, "llama_settings": settings}

    return with_harness(config, (), run)


def contestants(harness: Harness) -> list[System]:
    """Every system of this run; peers only as far as they take part."""
    count, seed = harness.anchors, harness.config.seed
    none, some, full = (coefficients(count, live, seed) for live in (0, max(1, count // 3), count))
    systems = [System(REST, "mixer", none), System(SOME, "mixer", some), System(ALL, "mixer", full)]
    if harness.facts["mixer"]["fold"]:
        systems.append(System(FOLDED, "mixer", full, {"folded": True}))
    if harness.has("transformers"):
        systems.append(System("transformers, base", "torch", none, {"mode": "plain"}))
    if harness.has("peft"):
        systems += [
            System("PEFT, all active", "torch", full, {"mode": "active"}),
            System("PEFT, all joined (cat)", "torch", full, {"mode": "cat"}),
            System("PEFT, merged", "torch", full, {"mode": "merged"}),
        ]
    if harness.has("llama.cpp"):
        systems += [
            System("llama.cpp, base", "llama.cpp", none),
            System("llama.cpp, all adapters", "llama.cpp", full),
            System("llama.cpp, all joined by us", "llama.cpp", harness.llama_cpp_mix(full), mix=full),
        ]
    return systems


def tuned(harness: Harness, systems: list[System], prompt: Prompt) -> dict[str, str]:
    """Let llama.cpp find its best settings for a context; what they are."""
    own = [system for system in systems if system.worker == "llama.cpp"]
    settings = {}
    for system in own:
        knobs = harness.tune(system, prompt)
        settings[f"{system.label}, context {len(prompt.ids)}"] = knobs
    return settings


def section(harness: Harness, systems: list[System], context: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Gates, then rounds in which every system writes once, the order turned by one each time."""
    verdicts = harness.check_all(systems, harness.prompt(context, tokens), tokens)
    running = [system for system in systems if verdicts[system.label].right]
    steps: dict[str, list[list[float]]] = {system.label: [] for system in running}
    first: dict[str, list[float]] = {system.label: [] for system in running}
    for turn in range(rounds + 1):
        prompt = harness.prompt(context, tokens, turn + 1)
        for place in range(len(running)):
            system = running[(place + turn) % len(running)]
            text = harness.write(system, prompt, tokens)
            if turn:  # the first round warms up
                steps[system.label].append(text["steps"])
                first[system.label].append(text["first"])
    rows = []
    for system in systems:
        verdict = verdicts[system.label]
        row: dict[str, Any] = {"system": system.label, "off": verdict.off, "short": verdict.short}
        if verdict.right:
            p50, p95 = p50_p95([step for taken in steps[system.label] for step in taken])
            row |= {"tokens_per_second": 1e3 / p50, "p50_ms": p50, "p95_ms": p95}
            row["first_token_ms"] = 1e3 * statistics.median(first[system.label])
        rows.append(row)
    typical = {label: [statistics.median(taken) for taken in own] for label, own in steps.items()}
    return {
        "context": context,
        "rows": rows,
        "ratios": ratios(typical),
        "overheads": overheads(harness, systems, typical, context + tokens // 2),
    }


def ratios(typical: dict[str, list[float]]) -> dict[str, float]:
    """How many times faster the desk is than each peer that does the same work."""
    pairs = [(ALL, peer) for peer in typical if ", all" in peer and not peer.startswith("mixer")]
    pairs += [(REST, peer) for peer in typical if peer.endswith(", base")]
    pairs += [(ALL, "PEFT, merged"), (FOLDED, "PEFT, merged"), (FOLDED, "llama.cpp, base")]
    return {
        f"{own} / {peer}": ratio(typical[peer], typical[own])
        for own, peer in pairs
        if own in typical and peer in typical
    }


def overheads(
    harness: Harness, systems: list[System], typical: dict[str, list[float]], context: int
) -> list[dict[str, Any]]:
    """What the gate adds to the desk at rest: measured, and as the bytes say."""
    found = []
    for system in systems:
        if system.worker == "mixer" and {system.label, REST} <= typical.keys() and system.label != REST:
            folded = bool(system.options.get("folded"))
            mix = [0.0] * harness.anchors if folded else system.coefficients
            bytes_ = cost(harness.config.base, harness.adapters, mix, harness.config.dtype, context)
            measured = ratio(typical[system.label], typical[REST]) - 1
            found.append({"system": system.label, "measured": measured, "bytes": bytes_.overhead, **asdict(bytes_)})
    return found


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    lines = [
        f"{report['anchors']} anchors, {report['dtype']}, {report['threads']} threads, "
        f"{report['tokens']} tokens, {report['rounds']} rounds"
    ]
    for part in report["sections"]:
        head = [f"context {part['context']}", "tokens/s", "ms a token, p50 / p95", "first token (ms)", "off by (nats)"]
        rows = []
        for row in part["rows"]:
            cells = ["wrong", "", ""]
            if "p50_ms" in row:
                cells = [row["tokens_per_second"], f"{shown(row['p50_ms'])} / {shown(row['p95_ms'])}"]
                cells.append(row["first_token_ms"])
            rows.append([row["system"], *cells, f"{max(row['off'], row['short']):.2g}"])
        lines += ["", markdown(head, rows), ""]
        lines.append(markdown(["times as fast", ""], list(part["ratios"].items())))
        lines.append("")
        for over in part["overheads"]:
            weights, gate, cache = (over[key] / 1e6 for key in ("weights", "gate", "cache"))
            lines.append(
                f"{over['system']}: {percent(over['measured'])} a token over rest; bytes say {percent(over['bytes'])} "
                f"({gate:.1f} MB of A and B, beside {weights:.1f} of weights and {cache:.1f} of keys and values)"
            )
    lines += ["", *(f"{name}: {knobs}" for name, knobs in report["llama_settings"].items())]
    return "\n".join([*lines, "", *footer(report)])
