"""The desk under measurement, through its public interface alone; runs in a worker process.

Every text ends at its length, and is greedy but for formulas', so that all systems do the same work.
"""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, reduce
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers

from bench.harness.terms import TermByTerm, acceptance
from mixer.decoding.session import Session
from mixer.decoding.steps import Step
from mixer.desk import Desk, Draft
from mixer.export.gguf import export_gguf_base, export_gguf_lora
from mixer.values.mix import Mix
from mixer.values.sampling import SamplingParams

SESSION_TOKENS = 96  # moves are measured on texts of this length, so that the context stays near its nominal length


class MixerRunner:
    """Desks over one base with different numbers of anchors.

    Args:
        layouts: number of anchors -> anchors folder; the largest is what `export` writes.
    """

    def __init__(self, base: str, dtype: str, threads: int, layouts: Mapping[str, str]) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self._base, self._dtype = base, dtype
        self._layouts = {int(count): folder for count, folder in layouts.items()}
        self._desk = cache(self._load)

    def facts(self) -> dict[str, Any]:
        """Versions, threads, and whether this desk can fold."""
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
        """The base and every anchor as GGUF files for the peers."""
        desk, out = self._desk(max(self._layouts)), Path(folder)
        adapters = []
        for name in desk.anchors:
            path = export_gguf_lora(desk, desk.mix_from_coefficients({name: 1.0}), out / f"{name}.gguf", self._dtype)
            adapters.append(str(path))
        return {"base": str(export_gguf_base(desk, out / "base.gguf", self._dtype)), "adapters": adapters}

    def export_mix(self, coefficients: Sequence[float], path: str) -> str:
        """One mix as one GGUF adapter."""
        desk = self._desk(len(coefficients))
        return str(export_gguf_lora(desk, self._mix(desk, coefficients), path, self._dtype))

    def logprobs(self, prompt: str, coefficients: Sequence[float], folded: bool = False) -> list[float]:
        """Next-token log-probabilities `(V,)`."""
        desk = self._desk(len(coefficients))
        mix = self._mix(desk, coefficients)
        with _folded(desk, mix if folded else None):
            return desk.logprobs(prompt, mix).tolist()

    def write(self, prompt: str, coefficients: Sequence[float], tokens: int, folded: bool = False) -> dict[str, Any]:
        """One text: its token ids, seconds to the first token, seconds of each step after it."""
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
        """A formula's next-token log-probabilities `(V,)`: in the desk's way, or with a forward pass a term."""
        desk = self._desk(anchors)
        if not by_term:
            return desk.logprobs(prompt, formula=formula).tolist()
        with TermByTerm(desk, formula, prompt, 1) as terms:
            return terms.logprobs(0, [])[0].tolist()

    def write_formula(
        self, prompt: str, anchors: int, formula: str, tokens: int, seed: int, draft: Draft, by_term: bool = False
    ) -> dict[str, Any]:
        """One text by a formula, drawn and not greedy: as `write`, and the share of guesses that held."""
        desk, params = self._desk(anchors), _drawn(tokens, seed)
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
        """How likely guesses by a draft formula hold along a text; see `terms.acceptance`."""
        return acceptance(self._desk(anchors), formula, draft, prompt, list(tokens), _drawn(len(tokens), seed))

    def write_batch(self, prompt: str, mixes: Sequence[Sequence[float]], tokens: int) -> dict[str, Any]:
        """One text a mix, all in lockstep: token ids of each, seconds in all and without the first step."""
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
        """One text a mix, one after another, as peers must write them."""
        begin = perf_counter()
        texts = [self.write(prompt, mix, tokens) for mix in mixes]
        seconds, decode = perf_counter() - begin, sum(sum(text["steps"]) for text in texts)
        return {"tokens": [text["tokens"] for text in texts], "seconds": seconds, "decode": decode}

    def moves(
        self, prompt: str, anchors: int, moves: Sequence[tuple[int, Mapping[str, float]]], rows: int, exact: bool
    ) -> dict[str, list[float]]:
        """Slider moves on running texts, each followed by a step under it and a step at rest.

        Args:
            moves: for each, the row and the positions of the sliders that move, by their number.
            exact: refill the cache after a move; otherwise keep it.

        Returns:
            seconds for each move: `apply` until the API has taken it, `first` until its first token, `rest` of a step
            without a move.
        """
        stage = _Stage(self._desk(anchors), prompt, rows, exact)
        taken: dict[str, list[float]] = {"apply": [], "first": [], "rest": []}
        for row, positions in moves:
            stage.make_room()
            session = stage.sessions[row]
            begin = perf_counter()
            session.mix = _moved(session.mix, positions)
            applied = perf_counter()
            tick = next(stage.ticks)
            first = perf_counter()
            next(stage.ticks)
            taken["rest"].append(perf_counter() - first)
            taken["apply"].append(applied - begin)
            taken["first"].append(first - begin)
            step = tick[row]
            assert step and step.mix_key == session.mix.key, "the first token after a move is not under its mix"
        return taken

    def drag(self, prompt: str, anchors: int, steps: int, tokens: int) -> dict[str, list[list[float]]]:
        """Log-probabilities of the tokens after dragging the first slider from 0 to 1, and of fresh texts nearby."""
        desk = self._desk(anchors)
        session = desk.session(prompt, Mix(), _greedy(steps + tokens))
        ticks = iter(session)
        next(ticks)
        for index in range(1, steps + 1):
            session.on_mix_change = "restart" if index == steps else "keep"
            session.mix = _moved(session.mix, {"0": index / steps})
            step = next(ticks)
        dragged = [step, *(next(ticks) for _ in range(tokens - 1))]
        session.close()
        found = {"dragged": _pairs(dragged)}
        for name, position in (("at", 1.0), ("below", 0.99), ("above", 1.01)):
            mix = _moved(Mix(), {"0": position})
            found[name] = _pairs(list(desk.session(prompt, mix, _greedy(tokens))))
        return found

    def walk(self, prompt: str, anchors: int, moves: int, samples: int = 10) -> dict[str, Any]:
        """Many random moves, a step each: the hash of W0 before and after, resident memory on the way, recompiles."""
        desk = self._desk(anchors)
        generator = torch.Generator().manual_seed(0)
        before, compiled = _weights_hash(desk), _compiled()
        memory = []
        stage = _Stage(desk, prompt, 1, False)
        for index in range(moves):
            stage.make_room()
            slider = int(torch.randint(anchors // 2, (1,), generator=generator))
            position = float(torch.rand(1, generator=generator)) * 3 - 1.5
            stage.sessions[0].mix = _moved(stage.sessions[0].mix, {str(slider): position})
            next(stage.ticks)
            if index % max(1, moves // samples) == 0:
                memory.append((index, _resident()))
        return {
            "same_weights": before == _weights_hash(desk),
            "memory": memory,
            "recompiles": _compiled() - compiled,
        }

    def _load(self, anchors: int) -> Desk:
        return Desk.load(
            self._base, self._layouts[anchors], device="cpu", dtype=self._dtype, any_base=True, auto_fold=False
        )

    def _mix(self, desk: Desk, coefficients: Sequence[float]) -> Mix:
        return desk.mix_from_coefficients(dict(zip(desk.anchors, coefficients, strict=True)))


class _Stage:
    """Running sessions, replaced by fresh ones under the same mixes when their texts end."""

    def __init__(self, desk: Desk, prompt: str, rows: int, exact: bool) -> None:
        self._desk, self._prompt, self._exact = desk, prompt, exact
        self.sessions: list[Session] = []
        self._mixes = [_moved(Mix(), {str(row % max(1, len(desk.attributes))): 0.5}) for row in range(rows)]
        self.ticks: Iterator[tuple[Step | None, ...]] = iter(())
        self._left = 0

    def make_room(self) -> None:
        """See to it that every session can take two more steps."""
        if self._left < 2:
            mixes = [session.mix for session in self.sessions] or self._mixes
            rule, params = "refill" if self._exact else "keep", _greedy(SESSION_TOKENS)
            # All texts begin under the same mixes, so that the desk keeps no more prompts the longer this goes on.
            self.sessions = [self._desk.session(self._prompt, mix, params, rule) for mix in self._mixes]
            self.ticks = self._desk.lockstep(*self.sessions)
            next(self.ticks)
            for session, mix in zip(self.sessions, mixes, strict=True):
                session.mix = mix
            for _ in range(3):
                next(self.ticks)
            room = self._desk.context - len(self.sessions[0].prompt_ids)
            self._left = min(SESSION_TOKENS, room) - 4
        self._left -= 2


@contextmanager
def _folded(desk: Any, mix: Mix | None) -> Iterator[None]:
    """With this mix folded into the weights, if one is given."""
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


def _drawn(tokens: int, seed: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=tokens, min_new_tokens=tokens, seed=seed)


def _moved(mix: Mix, positions: Mapping[str, float]) -> Mix:
    moves = ((f"slider{int(slider):02}", position) for slider, position in positions.items())
    return reduce(lambda former, move: former.with_position(*move), moves, mix)


def _pairs(steps: Sequence[Step]) -> list[list[float]]:
    return [[step.token_id, step.logprob] for step in steps]


def _weights_hash(desk: Desk) -> str:
    digest = hashlib.sha256()
    for name, weight in desk.base_model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _resident() -> int:
    """Resident memory in bytes, now; its peak where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


def _compiled() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
