"""What one slider move costs, for few and many anchors: ours and PEFT's, interleaved in one run.

Ours is a new `Mix`, its coefficients, and the gate's changed entries. PEFT's is the cheapest way its API has: the scale
of one adapter, set on every LoRA layer, found once beforehand. Neither includes the next forward pass.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
from transformers import AutoModelForCausalLM

from mixer.anchors import CONFIG
from mixer.desk import ANCHORS, BASE
from mixer.load import pick_device, pick_dtype
from mixer.mix import POLES, Anchor, Mix

MOVES, WARM_UP = 200, 20


def bench_moves(counts: tuple[int, ...] = (2, 4, 8, 12, 16), seed: int = 0) -> dict:
    """Microseconds a move at the median and the 95th percentile, for each number of anchors.

    More anchors than are shipped are the shipped ones again under other names: their values cost nothing.
    """
    folders = sorted(path.parent for path in ANCHORS.glob(f"*/*/{CONFIG}"))
    rows = []
    for count in counts:
        movers = {"mixer": _ours(count), "peft": _peft([folders[i % len(folders)] for i in range(count)])}
        taken: dict[str, list[float]] = {name: [] for name in movers}
        rng = random.Random(seed)
        for _ in range(MOVES + WARM_UP):
            which, position = rng.randrange(count // 2), rng.uniform(-1.5, 1.5)
            for name, move in movers.items():
                begin = time.perf_counter()
                move(which, position)
                taken[name].append(1e6 * (time.perf_counter() - begin))
        row = {"anchors": count}
        for name, times in taken.items():
            p50, p95 = np.percentile(times[WARM_UP:], [50, 95])
            row |= {f"{name}_p50_us": round(float(p50), 1), f"{name}_p95_us": round(float(p95), 1)}
        rows.append(row)
    return {"rows": rows, "moves": MOVES}


def _ours(count: int) -> Callable[[int, float], None]:
    from mixer.lora import Panel

    names = [Anchor(f"a{i}", pole, "", 8, 16, "").name for i in range(count // 2) for pole in POLES]
    device = pick_device()
    panel = Panel([8] * count, rows=2, device=device, dtype=pick_dtype("auto", device))
    mix = Mix()

    def move(which: int, position: float) -> None:
        nonlocal mix
        mix = mix.with_position(f"a{which}", position)
        panel.set(1, mix.coefficients(names))

    return move


def _peft(folders: list[Path]) -> Callable[[int, float], None]:
    base = AutoModelForCausalLM.from_pretrained(BASE, device_map={"": pick_device()})
    model = peft.PeftModel.from_pretrained(base, folders[0], adapter_name="n0")
    for index, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=f"n{index}")
    layers = [module for module in model.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]

    def move(which: int, position: float) -> None:
        for pole, coefficient in ((0, max(-position, 0.0)), (1, max(position, 0.0))):
            for layer in layers:
                layer.set_scale(f"n{2 * which + pole}", coefficient)

    return move


def table(report: dict) -> str:
    """The report as a markdown table."""
    lines = ["| anchors | mixer p50 / p95 (µs) | PEFT p50 / p95 (µs) | ratio |", "|---|---|---|---|"]
    for row in report["rows"]:
        lines.append(
            f"| {row['anchors']} | {row['mixer_p50_us']} / {row['mixer_p95_us']} "
            f"| {row['peft_p50_us']} / {row['peft_p95_us']} | {row['peft_p50_us'] / row['mixer_p50_us']:.0f} |"
        )
    return "\n".join(lines)
