"""What a base of 1.5 billion parameters with twelve anchors takes: memory, milliseconds a step, microseconds a move.

The weights are random numbers in Qwen2.5-1.5B's shape, made in memory: nothing is fetched, and what is measured does
not depend on what they say. Seconds to make them are not seconds to read them from a disk. Steps at rest and steps with
all anchors live take turns, text by text, in one run. Linux alone says how much memory a process holds.
"""

from __future__ import annotations

import gc
import random
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen2Config

from mixer.adapters.anchor_set import AnchorSet
from mixer.adapters.low_rank import LowRank
from mixer.adapters.peft import Adapter
from mixer.desk import Desk
from mixer.errors import InvalidValue
from mixer.model.model import Model
from mixer.resources import BASE
from mixer.values.mix import POLES, Anchor, Attribute, Mix, Pole
from mixer.values.sampling import SamplingParams

PROMPT = "The garden at night was"
CONTEXT, RANK, LORA_ALPHA = 4096, 8, 16.0
ROUNDS, STEPS = 4, 6  # texts of each kind, and steps in each after its first token


@dataclass(frozen=True)
class BaseShape:
    """A decoder in the manner of Qwen2.5, whose 1.5B these defaults are; the other sizes follow from `hidden`."""

    layers: int = 28
    hidden: int = 1536
    vocab: int = 151936

    def __post_init__(self) -> None:
        if self.layers < 1 or self.hidden < 256 or self.hidden % 256:
            raise InvalidValue(
                f"A base of {self.layers} layers of {self.hidden} numbers cannot be made.",
                "Give at least one layer, and a multiple of 256.",
            )

    def config(self) -> Qwen2Config:
        """Heads of 128 numbers, two of them with keys and values; an MLP 5.83 times as wide; tied embeddings."""
        return Qwen2Config(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.hidden * 35 // 6 // 64 * 64,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // 128,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
        )


def bench_memory(shape: BaseShape | None = None, anchors: int = 12, moves: int = 1000, seed: int = 0) -> dict:
    """Make the model, write with it, and move its sliders.

    Args:
        anchors: an even number; two poles an attribute, each on all linear modules of the layers.

    Returns:
        megabytes `rss_*`, seconds `*_s`, milliseconds `step_*_ms` at the median, microseconds `move_*_us`: setting a
        session's mix, and `apply` bringing it into the gate at the next step.

    Raises:
        InvalidValue: the shape or a number cannot be.
    """
    if anchors < 2 or anchors % 2 or moves < 1:
        raise InvalidValue(f"{anchors} anchors and {moves} moves cannot be measured.", "Give two or more, and one.")
    shape = shape or BaseShape()
    torch.manual_seed(seed)
    report: dict = {"shape": asdict(shape), "anchors": anchors, "moves": moves, "threads": torch.get_num_threads()}
    report["rss_start_mb"] = megabytes_now()
    begin = time.perf_counter()
    lm = AutoModelForCausalLM.from_config(shape.config(), dtype=torch.bfloat16).eval()
    report |= {"parameters": lm.num_parameters(), "base_s": round(time.perf_counter() - begin, 2)}
    report["rss_base_mb"] = megabytes_now()

    begin = time.perf_counter()
    desk = _desk(lm, anchors)
    report["anchors_s"] = round(time.perf_counter() - begin, 2)
    gc.collect()
    report["rss_desk_mb"] = megabytes_now()

    live = desk.mix_from_coefficients({name: 0.1 * (1 + i) for i, name in enumerate(desk.anchors)})
    times: dict[str, list[float]] = {"rest": [], "live": []}
    for turn in range(ROUNDS + 1):
        for name, mix in (("rest", Mix()), ("live", live)):
            taken = _steps(desk, mix, seed)
            times[name] += taken if turn else []  # the first text of each kind warms up
    report |= {f"step_{name}_ms": round(statistics.median(taken), 2) for name, taken in times.items()}
    report |= _moves(desk, moves, seed)
    report["rss_peak_mb"] = megabytes_peak()
    return report


def table(report: dict) -> str:
    """The report as a markdown table."""
    names = {
        "parameters": "parameters of the base",
        "base_s": "seconds to make the base",
        "anchors_s": "seconds to make and stack the anchors",
        "rss_start_mb": "resident memory before (MB)",
        "rss_base_mb": "… with the base",
        "rss_desk_mb": "… with the anchors too",
        "rss_growth_mb": f"… more after {report['moves']:,} moves",
        "rss_peak_mb": "most resident memory (MB)",
        "step_rest_ms": "a step at rest (ms)",
        "step_live_ms": f"a step with {report['anchors']} anchors live (ms)",
        "move_set_us": "a slider move (µs)",
        "move_apply_us": "… into the gate (µs)",
    }
    lines = [f"| on {report['threads']} threads | |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {report[key]:,} |" for key, name in names.items()])


def _desk(lm: PreTrainedModel, count: int) -> Desk:
    """A desk of random anchors, small enough that the text stays the base's kind of noise."""
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in lm.base_model.named_modules(prefix=lm.base_model_prefix)
        if isinstance(module, nn.Linear)
    }

    def adapter(name: str, pole: Pole) -> Adapter:
        def noise(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns).mul_(0.02).bfloat16()

        parts = {
            module: LowRank(noise(RANK, width), noise(height, RANK), LORA_ALPHA / RANK)
            for module, (width, height) in linears.items()
        }
        return Adapter(Anchor(name, pole, "", RANK, LORA_ALPHA, ""), parts)

    adapters = tuple(adapter(f"a{index}", pole) for index in range(count // 2) for pole in POLES)
    attributes = {
        low.anchor.attribute: Attribute(low.anchor.attribute, low.anchor, high.anchor, ("-", "+"))
        for low, high in zip(adapters[::2], adapters[1::2], strict=True)
    }
    found = AnchorSet(attributes, adapters, ())
    return Desk(Model(lm, AutoTokenizer.from_pretrained(BASE), found), found, None, "random")


def _steps(desk: Desk, mix: Mix, seed: int) -> list[float]:
    """Milliseconds of each step after the first token."""
    begin, taken = 0.0, []
    params = SamplingParams(seed=seed, max_new_tokens=STEPS + 1, min_new_tokens=STEPS + 1)
    for step in desk.stream(PROMPT, mix, params):
        now = time.perf_counter()
        if step.index:
            taken.append(1000 * (now - begin))
        begin = now
    return taken


def _moves(desk: Desk, moves: int, seed: int) -> dict:
    """Sliders moved at random in a running text, with a step after every twentieth part of the moves."""
    rng = random.Random(seed)
    names, every = sorted(desk.attributes), max(1, moves // 20)
    session = desk.session(PROMPT, Mix(), SamplingParams(seed=seed, max_new_tokens=64, min_new_tokens=64))
    stream = iter(session)

    def walk(count: int) -> tuple[list[float], list[float]]:
        taken, applied = [], []
        for move in range(count):
            begin = time.perf_counter()
            session.mix = session.mix.with_position(rng.choice(names), rng.uniform(-1, 1))
            taken.append(1e6 * (time.perf_counter() - begin))
            if move % every == every - 1:
                next(stream)
                applied.append(session.stats.apply_us or 0.0)
        return taken, applied

    walk(3 * every)  # warms up
    before = megabytes_now()
    taken, applied = walk(moves)
    growth = megabytes_now() - before
    session.close()
    return {
        "move_set_us": round(statistics.median(taken), 1),
        "move_apply_us": round(statistics.median(applied), 1),
        "rss_growth_mb": round(growth, 2),
    }


def megabytes_now() -> float:
    """Resident memory of this process, in units of 10^6 bytes."""
    return round(psutil.Process().memory_info().rss / 1e6, 2)


def megabytes_peak() -> float:
    """The most resident memory that this process ever had, in units of 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # of getrusage
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 2)
