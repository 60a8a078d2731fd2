"""The desk in a worker process, used through its public interface.

All texts have their full length. All are greedy, except those by formulas. So all systems do the same work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, reduce
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers

from bench.harness.processes import resident_bytes
from bench.harness.terms import TermByTerm, acceptance
from mixer.decoding.session import Session
from mixer.decoding.steps import Step
from mixer.desk import Desk, Draft
from mixer.export.gguf import export_gguf_base, export_gguf_lora
from mixer.values.mix import Mix
from mixer.values.sampling import SamplingParams

TEXT_TOKENS = (
    96  # length of a text on which moves are measured; short, so that the context stays near its nominal length
)


class MixerRunner:
    """Desks over one base, with different numbers of anchors.

    Args:
        layouts: anchors folder by number of anchors; `export` writes the largest.
    """

    def __init__(self, base: str, dtype: str, threads: int, layouts: Mapping[str, str]) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self._base, self._dtype = base, dtype
        self._layouts = {int(count): folder for count, folder in layouts.items()}
        self._desk = cache(self._load_desk)

    def facts(self) -> dict[str, Any]:
        """Version of torch, most tokens of a text, whether this desk can fold, and end-of-text tokens."""
        desk = self._desk(min(self._layouts))
        ends = desk.base_model.generation_config.eos_token_id if desk.base_model.generation_config else None
        ends = desk.tokenizer.eos_token_id if ends is None else ends
        return {
            "torch": torch.__version__,
            "context": desk.context,
            "fold": hasattr(desk, "fold"),
            "ends": ends if isinstance(ends, list) else [] if ends is None else [ends],
        }

    def export(self, folder: str) -> dict[str, Any]:
        """Write the base and every anchor as GGUF files for the peers; returns their paths."""
        desk, out = self._desk(max(self._layouts)), Path(folder)
        adapters = []
        for name in desk.anchors:
            path = export_gguf_lora(desk, desk.mix_from_coefficients({name: 1.0}), out / f"{name}.gguf", self._dtype)
            adapters.append(str(path))
        return {"base": str(export_gguf_base(desk, out / "base.gguf", self._dtype)), "adapters": adapters}

    def export_mix(self, coefficients: Sequence[float], path: str) -> str:
        """Write one mix as one GGUF adapter; returns its path."""
        desk = self._desk(len(coefficients))
        return str(export_gguf_lora(desk, self._mix(desk, coefficients), path, self._dtype))

    def logprobs(self, prompt: str, coefficients: Sequence[float], folded: bool = False) -> list[float]:
        """Next-token log-probabilities `(V,)`."""
        desk = self._desk(len(coefficients))
        mix = self._mix(desk, coefficients)
        with _folded(desk, mix if folded else None):
            return desk.logprobs(prompt, mix).tolist()

    def write(self, prompt: str, coefficients: Sequence[float], tokens: int, folded: bool = False) -> dict[str, Any]:
        """One greedy text: its token ids, seconds to the first token, seconds of each later step."""
        desk = self._desk(len(coefficients))
        mix = self._mix(desk, coefficients)
        with _folded(desk, mix if folded else None):
            begin = perf_counter()
            session = desk.session(prompt, mix, _greedy(tokens))
            times = [perf_counter() for _ in session]
        return {
            "tokens": session.token_ids,
            "first": times[0] - begin,
            "steps": [b - a for a, b in pairwise(times)],
        }

    def formula_logprobs(self, prompt: str, anchors: int, formula: str, by_term: bool = False) -> list[float]:
        """Next-token log-probabilities `(V,)` of a formula: by the desk, or with one forward pass for each term."""
        desk = self._desk(anchors)
        if not by_term:
            return desk.logprobs(prompt, formula=formula).tolist()
        with TermByTerm(desk, formula, prompt, 1) as terms:
            return terms.logprobs(0, [])[0].tolist()

    def write_formula(
        self, prompt: str, anchors: int, formula: str, tokens: int, seed: int, draft: Draft, by_term: bool = False
    ) -> dict[str, Any]:
        """One sampled text by a formula: the figures of `write`, `acceptance` of drafts, and tokens `guessed` right."""
        desk, params = self._desk(anchors), _sampled(tokens, seed)
        if by_term:
            with TermByTerm(desk, formula, prompt, tokens) as terms:
                return terms.write(params)
        begin = perf_counter()
        session = desk.session(prompt, params=params, formula=formula, draft=draft)
        steps = [(perf_counter(), step.guessed) for step in session]
        times = [at for at, _ in steps]
        return {
            "tokens": session.token_ids,
            "first": times[0] - begin,
            "steps": [b - a for a, b in pairwise(times)],
            "acceptance": session.stats.acceptance,
            "guessed": sum(guessed for _, guessed in steps),
        }

    def acceptance(
        self, prompt: str, anchors: int, formula: str, draft: str, tokens: Sequence[int], seed: int
    ) -> dict[str, float]:
        """The probability that tokens of a draft formula are accepted along a text; see `terms.acceptance`."""
        return acceptance(self._desk(anchors), formula, draft, prompt, list(tokens), _sampled(len(tokens), seed))

    def write_batch(self, prompt: str, mixes: Sequence[Sequence[float]], tokens: int) -> dict[str, Any]:
        """One text for each mix, all in lockstep.

        Returns:
            `tokens` of each text, `seconds` in all, and seconds of `decode`, without the first step.
        """
        desk = self._desk(len(mixes[0]))
        begin = perf_counter()
        sessions = [desk.session(prompt, self._mix(desk, mix), _greedy(tokens)) for mix in mixes]
        times = [perf_counter() for _ in desk.lockstep(*sessions)]
        return {
            "tokens": [session.token_ids for session in sessions],
            "seconds": times[-1] - begin,
            "decode": times[-1] - times[0],
        }

    def write_each(self, prompt: str, mixes: Sequence[Sequence[float]], tokens: int) -> dict[str, Any]:
        """One text for each mix, one after another, as peers must write them; returns the same as `write_batch`."""
        begin = perf_counter()
        texts = [self.write(prompt, mix, tokens) for mix in mixes]
        seconds, decode = perf_counter() - begin, sum(sum(text["steps"]) for text in texts)
        return {"tokens": [text["tokens"] for text in texts], "seconds": seconds, "decode": decode}

    def moves(
        self, prompt: str, anchors: int, moves: Sequence[tuple[int, Mapping[str, float]]], rows: int, exact: bool
    ) -> dict[str, list[float]]:
        """Slider moves on running texts; after each one a step under the new mix and a step without a move.

        Args:
            moves: for each move, its row and the new positions by slider number.
            rows: number of texts in lockstep.
            exact: refill the KV cache after a move; otherwise keep it.

        Returns:
            seconds of each move: `apply` until the call returns, `first` until the first token under the new mix,
            `rest` of the step without a move.
        """
        running = _RunningTexts(self._desk(anchors), prompt, rows, exact)
        times: dict[str, list[float]] = {"apply": [], "first": [], "rest": []}
        for row, positions in moves:
            running.make_room()
            session = running.sessions[row]
            begin = perf_counter()
            session.mix = _with_positions(session.mix, positions)
            applied = perf_counter()
            step_of_rows = next(running.steps)
            first = perf_counter()
            next(running.steps)
            times["rest"].append(perf_counter() - first)
            times["apply"].append(applied - begin)
            times["first"].append(first - begin)
            step = step_of_rows[row]
            assert step and step.mix_key == session.mix.key, "the first token after a move is not under its mix"
        return times

    def drag(self, prompt: str, anchors: int, steps: int, tokens: int) -> dict[str, list[list[float]]]:
        """Drag the first slider from 0 to 1 in a running text, and write fresh texts near 1.

        Args:
            steps: number of moves of the drag. tokens: number of steps to return.

        Returns:
            `(token, logprob)` of each step, by text; see `checks.coefficient_reached`.
        """
        desk = self._desk(anchors)
        session = desk.session(prompt, Mix(), _greedy(steps + tokens))
        stream = iter(session)
        next(stream)
        for index in range(1, steps + 1):
            session.on_mix_change = "restart" if index == steps else "keep"
            session.mix = _with_positions(session.mix, {"0": index / steps})
            step = next(stream)
        dragged = [step, *(next(stream) for _ in range(tokens - 1))]
        session.close()
        found = {"dragged": _token_logprobs(dragged)}
        for name, position in (("at", 1.0), ("below", 0.99), ("above", 1.01)):
            mix = _with_positions(Mix(), {"0": position})
            found[name] = _token_logprobs(list(desk.session(prompt, mix, _greedy(tokens))))
        return found

    def walk(self, prompt: str, anchors: int, moves: int, samples: int = 10) -> dict[str, Any]:
        """Make many random moves with a step after each.

        Returns:
            `same_weights`: whether the base weights are unchanged. `memory`: `(move, bytes)` of resident memory.
            `recompiles`: graphs that torch compiled during the walk.
        """
        desk = self._desk(anchors)
        generator = torch.Generator().manual_seed(0)
        before, compiled = _weights_hash(desk), _compiled()
        memory = []
        running = _RunningTexts(desk, prompt, 1, False)
        for index in range(moves):
            running.make_room()
            slider = int(torch.randint(anchors // 2, (1,), generator=generator))
            position = float(torch.rand(1, generator=generator)) * 3 - 1.5
            running.sessions[0].mix = _with_positions(running.sessions[0].mix, {str(slider): position})
            next(running.steps)
            if index % max(1, moves // samples) == 0:
                memory.append((index, resident_bytes()))
        return {
            "same_weights": before == _weights_hash(desk),
            "memory": memory,
            "recompiles": _compiled() - compiled,
        }

    def _load_desk(self, anchors: int) -> Desk:
        return Desk.load(
            self._base, self._layouts[anchors], device="cpu", dtype=self._dtype, any_base=True, auto_fold=False
        )

    def _mix(self, desk: Desk, coefficients: Sequence[float]) -> Mix:
        return desk.mix_from_coefficients(dict(zip(desk.anchors, coefficients, strict=True)))


class _RunningTexts:
    """Running sessions; fresh ones under the same mixes replace them when their texts end."""

    def __init__(self, desk: Desk, prompt: str, rows: int, exact: bool) -> None:
        self._desk, self._prompt, self._exact = desk, prompt, exact
        self.sessions: list[Session] = []
        self._mixes = [_with_positions(Mix(), {str(row % max(1, len(desk.attributes))): 0.5}) for row in range(rows)]
        self.steps: Iterator[tuple[Step | None, ...]] = iter(())
        self._steps_left = 0

    def make_room(self) -> None:
        """Make sure that every session can take two more steps."""
        if self._steps_left < 2:
            mixes = [session.mix for session in self.sessions] or self._mixes
            rule, params = "refill" if self._exact else "keep", _greedy(TEXT_TOKENS)
            # All texts begin under the same mixes, so that the prefix cache of the desk does not grow.
            self.sessions = [self._desk.session(self._prompt, mix, params, rule) for mix in self._mixes]
            self.steps = self._desk.lockstep(*self.sessions)
            next(self.steps)
            for session, mix in zip(self.sessions, mixes, strict=True):
                session.mix = mix
            for _ in range(3):
                next(self.steps)
            room = self._desk.context - len(self.sessions[0].prompt_ids)
            self._steps_left = min(TEXT_TOKENS, room) - 4
        self._steps_left -= 2


@contextmanager
def _folded(desk: Any, mix: Mix | None) -> Iterator[None]:
    """With this mix folded into the weights; without a mix, nothing changes."""
    if mix is None:
        yield
        return
    desk.fold(mix)
    try:
        yield
    finally:
        desk.unfold()


def _greedy(tokens: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=tokens, min_new_tokens=tokens, temperature=0)


def _sampled(tokens: int, seed: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=tokens, min_new_tokens=tokens, seed=seed)


def _with_positions(mix: Mix, positions: Mapping[str, float]) -> Mix:
    moves = ((f"slider{int(slider):02}", position) for slider, position in positions.items())
    return reduce(lambda former, move: former.with_position(*move), moves, mix)


def _token_logprobs(steps: Sequence[Step]) -> list[list[float]]:
    return [[step.token_id, step.logprob] for step in steps]


def _weights_hash(desk: Desk) -> str:
    digest = hashlib.sha256()
    for name, weight in desk.base_model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _compiled() -> int:
    """Graphs that torch has compiled so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
