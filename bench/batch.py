"""Eight texts under eight mixes: one lockstep of the desk, beside peers that must write them one after another.

llama.cpp's scales belong to a whole context and PEFT's to a whole model, so different mixes share no batch there.
"""

from __future__ import annotations

from typing import Any

from bench.decode import tuned
from bench.harness.config import BenchConfig, coefficients
from bench.harness.harness import Harness, Prompt, System, footer, progress, with_harness
from bench.harness.tables import markdown, percent, ratio, shown

ROWS, CONTEXT, TOKENS, ROUNDS = 8, 64, 64, 7
QUICK_TOKENS, QUICK_ROUNDS = 16, 2
OURS, REST, ALONE = "mixer, 8 mixes in lockstep", "mixer, 8 rows at rest", "mixer, one mix after another"


def bench_batch(config: BenchConfig) -> dict[str, Any]:
    """The report: total tokens a second, with prompts and without, and ratios."""
    tokens, rounds = (QUICK_TOKENS, QUICK_ROUNDS) if config.quick else (TOKENS, ROUNDS)

    def run(harness: Harness) -> dict[str, Any]:
        prompt = harness.prompt(CONTEXT, tokens)
        mixes = [coefficients(harness.anchors, harness.anchors, config.seed + row) for row in range(ROWS)]
        systems = contestants(harness, mixes)
        settings = tuned(harness, systems, prompt)
        running = [system for system in systems if right(harness, system, prompt, mixes, tokens)]
        progress(f"batch: {len(running)} systems, {rounds} rounds of {ROWS} texts of {tokens} tokens")
        taken: dict[str, list[dict[str, float]]] = {system.label: [] for system in running}
        for turn in range(rounds + 1):
            for place in range(len(running)):
                system = running[(place + turn) % len(running)]
                answer = texts(harness, system, harness.prompt(CONTEXT, tokens, turn + 1), mixes, tokens)
                if turn:  # the first round warms up
                    taken[system.label].append({key: answer[key] for key in ("seconds", "decode")})
        return {
            "texts": ROWS,
            "context": len(prompt.ids),
            "tokens": tokens,
            "rounds": rounds,
            "rows": rows(systems, taken, tokens),
            "ratios": ratios(taken),
            "llama_settings": settings,
        }

    return with_harness(config, (), run)


def contestants(harness: Harness, mixes: list[list[float]]) -> list[System]:
    """Every system; its coefficients are the first row's, for the gate."""
    systems = [System(label, "mixer", mixes[0]) for label in (OURS, ALONE)]
    systems.append(System(REST, "mixer", [0.0] * harness.anchors))
    if harness.has("peft"):
        systems.append(System("PEFT, all active, one after another", "torch", mixes[0], {"mode": "active"}))
        systems.append(System("PEFT, all joined (cat), one after another", "torch", mixes[0], {"mode": "cat"}))
    if harness.has("llama.cpp"):
        systems.append(System("llama.cpp, all adapters, one after another", "llama.cpp", mixes[0]))
    return systems


def texts(harness: Harness, system: System, prompt: Prompt, mixes: list[list[float]], tokens: int) -> dict[str, Any]:
    """All texts once."""
    if system.label == REST:
        mixes = [system.coefficients] * len(mixes)
    question = "write_each" if system.label == ALONE else "write_batch"
    return harness.ask(system, question, prompt, mixes=mixes, tokens=tokens)


def right(harness: Harness, system: System, prompt: Prompt, mixes: list[list[float]], tokens: int) -> bool:
    """Whether every text is one that the reference would write under its mix."""
    answer = texts(harness, system, prompt, mixes, tokens)
    for mix, text in zip(mixes, answer["tokens"], strict=True):
        mix = system.coefficients if system.label == REST else mix
        found = harness.ask(system, "logprobs", prompt, coefficients=mix)
        verdict = harness.verdict(found, prompt, mix, text)
        if not verdict.right:
            progress(f"{system.label} is wrong (off by {verdict.off:.3g}, {verdict.short:.3g}) and not timed")
            return False
    return True


def rows(systems: list[System], taken: dict[str, list[dict[str, float]]], tokens: int) -> list[dict[str, Any]]:
    """Tokens a second at the median."""
    found = []
    for system in systems:
        row: dict[str, Any] = {"system": system.label}
        if own := taken.get(system.label):
            for name, key, count in (("total", "seconds", tokens), ("decode", "decode", tokens - 1)):
                row[f"{name}_tokens_per_second"] = ratio([ROWS * count] * len(own), [each[key] for each in own])
        found.append(row)
    return found


def ratios(taken: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """How many times faster the lockstep is, in all and decoding alone."""
    return {
        f"{OURS} / {label}": {
            key: ratio([each[key] for each in own], [each[key] for each in taken[OURS]])
            for key in ("seconds", "decode")
        }
        for label, own in taken.items()
        if label != OURS and OURS in taken
    }


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    head = [f"{report['texts']} texts of {report['tokens']} tokens", "tokens/s in all", "tokens/s decoding"]
    body = [
        [row["system"], *(row.get(f"{name}_tokens_per_second", "wrong") for name in ("total", "decode"))]
        for row in report["rows"]
    ]
    lines = [f"{report['dtype']}, {report['threads']} threads, context {report['context']}, {report['rounds']} rounds"]
    lines += ["", markdown(head, body), ""]
    quotients = [[name, each["seconds"], each["decode"]] for name, each in report["ratios"].items()]
    lines.append(markdown(["times as fast", "in all", "decoding"], quotients))
    rest = report["ratios"].get(f"{OURS} / {REST}")
    if rest:
        lines += ["", f"Gate at batch {report['texts']}: {percent(1 / rest['decode'] - 1)} a step over rest."]
    lines += ["", *(f"{name}: {shown(knobs)}" for name, knobs in report["llama_settings"].items())]
    return "\n".join([*lines, "", *footer(report)])
