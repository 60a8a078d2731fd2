"""llama.cpp under measurement: its best settings found by trial, then texts and moves. Runs in a worker process."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from time import perf_counter
from typing import Any

import numpy as np

from bench.harness.config import poles
from bench.harness.llama_cpp import LlamaCpp, LlamaCppSettings

KEPT = 96  # tokens of a text on which moves are measured
TUNE_TOKENS = 16


class LlamaCppRunner:
    """One model with its adapters; `tune` finds the settings that its other methods run with.

    Args:
        base: a GGUF file. adapters: GGUF files in coefficient order.
    """

    def __init__(self, base: str, adapters: Sequence[str], threads: int, context: int) -> None:
        self._runtime = LlamaCpp(base, adapters, context)
        self._adapters, self._threads = len(adapters), threads
        self._knobs: dict[int, LlamaCppSettings] = {}  # by the number of live adapters
        self._used = LlamaCppSettings()

    def facts(self) -> dict[str, Any]:
        """Version and what its CPU code was compiled for."""
        return {"llama_cpp": self._runtime.version, "system": self._runtime.system}

    def add_adapter(self, path: str) -> int:
        """Load one more adapter; its place in the coefficients."""
        return self._runtime.add_adapter(path)

    def tune(self, ids: Sequence[int], coefficients: Sequence[float], passes: int) -> str:
        """Try every setting on a text under this mix, and keep the fastest for mixes with as many live adapters."""
        choices = [
            LlamaCppSettings(*knobs) for knobs in product({1, self._threads}, (False, True), ("float16", "float32"))
        ]
        times: dict[LlamaCppSettings, list[float]] = {knobs: [] for knobs in choices}
        for _ in range(passes):
            for knobs in choices:
                self._use(knobs)
                times[knobs].append(statistics.median(self._text(ids, coefficients, TUNE_TOKENS)["steps"]))
        best = min(times, key=lambda knobs: min(times[knobs]))
        self._knobs[_live(coefficients)] = best
        return str(best)

    def logprobs(self, ids: Sequence[int], coefficients: Sequence[float]) -> list[float]:
        """Next-token log-probabilities `(V,)`."""
        self._prepare(coefficients)
        logits = self._runtime.prefill(ids).astype(np.float64)
        return (logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())).tolist()

    def write(self, ids: Sequence[int], coefficients: Sequence[float], tokens: int) -> dict[str, Any]:
        """One text: its token ids, seconds to the first token, seconds of each step after it."""
        self._prepare(coefficients)
        return self._text(ids, coefficients, tokens)

    def write_batch(self, ids: Sequence[int], mixes: Sequence[Sequence[float]], tokens: int) -> dict[str, Any]:
        """One text a mix, one after another: scales belong to a whole context, so different mixes share no batch."""
        self._prepare(mixes[0])
        texts, decode = [], 0.0
        begin = perf_counter()
        for mix in mixes:
            text = self._text(ids, mix, tokens)
            texts.append(text["tokens"])
            decode += sum(text["steps"])
        return {"tokens": texts, "seconds": perf_counter() - begin, "decode": decode}

    def moves(
        self, ids: Sequence[int], anchors: int, moves: Sequence[tuple[int, Mapping[str, float]]], exact: bool
    ) -> dict[str, list[float]]:
        """Slider moves on a running text, each followed by a step under it and a step at rest.

        Args:
            exact: read the whole text again after a move.
        """
        mix = [0.5, *[0.0] * (anchors - 1)]
        self._prepare(mix)
        runtime = self._runtime
        taken: dict[str, list[float]] = {"apply": [], "first": [], "rest": []}
        text: list[int] = []
        steps = iter(())
        for _, positions in moves:
            if not text or len(text) > KEPT - 2:
                runtime.set_scales(mix)
                text = [int(runtime.prefill(ids).argmax())]
                steps = runtime.steps(text[0])
                text += [next(steps) for _ in range(3)]
            begin = perf_counter()
            for slider, position in positions.items():
                mix[2 * int(slider) : 2 * int(slider) + 2] = poles(position)
            runtime.set_scales(mix)
            applied = perf_counter()
            if exact:
                token = int(runtime.prefill([*ids, *text]).argmax())
                steps = runtime.steps(token)
            else:
                token = next(steps)
            first = perf_counter()
            text += [token, next(steps)]
            taken["rest"].append(perf_counter() - first)
            taken["apply"].append(applied - begin)
            taken["first"].append(first - begin)
        return taken

    def _prepare(self, coefficients: Sequence[float]) -> None:
        if self._knobs:
            live = _live(coefficients)
            self._use(self._knobs[min(self._knobs, key=lambda tuned: abs(tuned - live))])
        self._runtime.set_scales(coefficients)

    def _use(self, knobs: LlamaCppSettings) -> None:
        if knobs != self._used:
            self._runtime.use(knobs)
            self._used = knobs

    def _text(self, ids: Sequence[int], coefficients: Sequence[float], tokens: int) -> dict[str, Any]:
        begin = perf_counter()
        self._runtime.set_scales(coefficients)
        text = [int(self._runtime.prefill(ids).argmax())]
        times = [perf_counter()]
        steps = self._runtime.steps(text[0])
        for _ in range(tokens - 1):
            text.append(next(steps))
            times.append(perf_counter())
        return {
            "tokens": text,
            "first": times[0] - begin,
            "steps": [b - a for a, b in pairwise(times)],
        }


def _live(coefficients: Sequence[float]) -> int:
    return sum(map(bool, coefficients))
