"""One step for all texts that wait for one: a forward pass of each model, then one sampling for all of them.

Knows rows, models and the sampler. Who may ask for a step, and when, is the scheduler's business.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from mixer.decoding.rows import Row, RowGroup
from mixer.decoding.sampler import Sampler
from mixer.decoding.session import Session
from mixer.model.auto_fold import AutoFold
from mixer.model.model import Model
from mixer.model.prefix_cache import PrefixCache


@dataclass(frozen=True)
class Piece:
    """Tokens of one row in one forward pass, up to a position; of the last `wanted` of them logits are wanted."""

    group: RowGroup
    row: Row
    stop: int
    wanted: int


class StepRunner:
    """Computes steps for row groups.

    Args:
        model: the resident model.
        prefixes: prompts whose keys and values are kept.
        fold: where to fold mixes into the weights; None never does by itself.
    """

    def __init__(self, model: Model, prefixes: PrefixCache, fold: AutoFold | None) -> None:
        self._model, self._prefixes, self._fold = model, prefixes, fold
        self._sampler = Sampler([], ())
        self._overhead = 0.0  # seconds of a step besides the models' passes; a moving average

    @torch.inference_mode()
    def run(self, groups: list[RowGroup], in_flight: Sequence[RowGroup]) -> None:
        """One forward pass of each model: what every group needs next, and a piece of every longer prompt.

        Args:
            groups: those that wait for a step.
            in_flight: all that have rows.
        """
        if not groups:  # closed while others were waited for
            return
        began = time.perf_counter()
        models = {model.order: model for group in groups for model in group.session.prompted.models}
        held = [models[order] for order in sorted(models)]  # every thread takes locks in this order: no deadlock
        with ExitStack() as locks:
            for model in held:
                locks.enter_context(model.lock)
            rows = 1 + max(group.last_index for group in groups)
            for model in held:
                model.backend.reserve(rows, max(group.session.most_tokens for group in groups))
            for group in groups:
                try:
                    group.begin_round(self._prefixes)
                except Exception as error:
                    group.fail(error)
            groups = [group for group in groups if not group.ready]
            if self._fold and groups:
                self._fold.settle(self._shared_mix(in_flight), max(group.session.state.room for group in groups))
            seconds = sum([self._forward(model, groups) for model in held])
        self.sample([group for group in groups if group.can_sample])
        self._overhead += 0.1 * (time.perf_counter() - began - seconds - self._overhead)

    def _forward(self, model: Model, groups: list[RowGroup]) -> float:
        """Compute what is pending of one model's rows, as far as one pass goes; returns seconds in the backend."""
        pending = [
            (group, row, stop) for group in groups for row, stop in group.pending() if row.branch_prompt.model is model
        ]
        ids: list[int] = []
        rows: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        pieces: list[Piece] = []
        prompts = sum(stop - row.filled > 1 for _, row, stop in pending)
        budget = model.backend.chunk  # prompt tokens of one pass: equal shares, what short prompts leave to longer ones
        for group, row, stop in sorted(pending, key=lambda one: one[2] - one[1].filled):
            count = stop - row.filled
            if count > 1:
                count = min(count, max(1, budget // prompts))
                budget, prompts = budget - count, prompts - 1
            stop = row.filled + count
            ids += row.ids(group.tokens, row.filled, stop)
            rows += [row.index] * count
            positions += range(row.filled, stop)
            first = max(row.filled, row.last(len(group.session.state.token_ids)))  # logits before it do not matter
            logits_wanted = max(0, stop - first)
            wanted += range(len(ids) - logits_wanted, len(ids))
            pieces.append(Piece(group, row, stop, logits_wanted))
        if not pieces:
            return 0.0
        start = time.perf_counter()
        logits = model.backend.forward(ids, rows, positions, wanted)
        states = model.backend.states
        seconds = time.perf_counter() - start
        if model.vocab > self._model.vocab:
            logits = logits[:, : self._model.vocab]
        for group in dict.fromkeys(piece.group for piece in pieces):
            group.passed(seconds + self._overhead)
        at = 0
        for piece in pieces:
            own = range(at, at + piece.wanted)  # iterating over a tensor itself takes long
            piece.group.receive(piece.row, piece.stop, [logits[i] for i in own], [states[i] for i in own])
            at += piece.wanted
            if piece.wanted and piece.group.exact and not piece.group.session.state.token_ids:
                self._keep_prefix(piece.row)
        return seconds

    def _keep_prefix(self, row: Row) -> None:
        """Keep the keys and values of a prompt that was just computed."""
        prompt = row.prompt_ids
        if row.filled == len(prompt) and self._prefixes.wants(row.key, prompt):
            self._prefixes.keep(row.key, prompt, row.branch_prompt.model.backend.snapshot(row.index, len(prompt)))

    def _shared_mix(self, in_flight: Sequence[RowGroup]) -> tuple[float, ...] | None:
        """The coefficients, `(K,)`, that all rows in flight share while at rest; None where they differ or move."""
        gate = self._model.backend.gate
        own = {gate[row.index] for group in in_flight for row in group.rows if row.branch_prompt.model is self._model}
        return own.pop() if len(own) == 1 and all(group.at_rest for group in in_flight) else None

    def sample(self, groups: list[RowGroup]) -> None:
        """Sample the tokens that can be sampled, and hand out the steps."""
        while groups:
            rows: list[tuple[RowGroup, int, Tensor]] = []
            for group in groups:
                try:
                    rows += [(group, before, logits) for before, logits in group.samples()]
                except Exception as error:  # it belongs to this session, whichever thread computes
                    group.fail(error)
            sampled = self._tokens([(group.session, before, logits) for group, before, logits in rows])
            own: dict[RowGroup, list[tuple[int, float]]] = {}
            for (group, *_), result in zip(rows, sampled, strict=True):
                own.setdefault(group, []).append(result)
            groups = [group for group, results in own.items() if group.accept(results)]
            for group in own:
                group.serve(fresh=True)

    def _tokens(self, rows: list[tuple[Session, int, Tensor]]) -> list[tuple[int, float]]:
        """A token and its log-probability for each (session, tokens before it, logits `(V,)`)."""
        scripts = [session.script(before, 1) for session, before, _ in rows]
        drawn = iter(self._draw([row for row, script in zip(rows, scripts, strict=True) if not script]))
        return [
            (script[0], float(logits[script[0]] - logits.logsumexp(0))) if script else next(drawn)
            for (*_, logits), script in zip(rows, scripts, strict=True)
        ]

    def _draw(self, rows: list[tuple[Session, int, Tensor]]) -> list[tuple[int, float]]:
        """See `_tokens`; for texts whose tokens are not given."""
        if not rows:
            return []
        params = tuple(session.params for session, *_ in rows)
        if params != self._sampler.params:
            self._sampler = Sampler(params, self._model.eos_ids)
        tokens, logprobs = self._sampler(
            torch.stack([logits for *_, logits in rows]),
            [session.seed for session, *_ in rows],
            [before for _, before, _ in rows],
            [session.state.may_end(before) for session, before, _ in rows],
        )
        return list(zip(tokens, logprobs, strict=True))
