"""Who computes when: sessions of all users as rows of one batch, admitted and retired at any step.

Nobody owns the loop. Whoever waits for a step and finds no one computing computes one step_: a single forward pass that
brings the next token of every session that is waiting, and a piece of every prompt that is being read. So a session
never runs ahead of its reader, and a slider move acts on the very next token.

Knows sessions and rows; no pages, no files.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mixer.decoding.rows import Row, RowGroup
from mixer.decoding.sampler import Sampler
from mixer.decoding.session import BranchPrompt, Session, Step
from mixer.errors import Busy, InvalidValue
from mixer.model.auto_fold import AutoFold
from mixer.model.model import MOST_ROWS, SCRATCH, Model
from mixer.model.prefix_cache import PrefixCache

MOST_TOKENS = 64 * 1024  # in all rows together, each counted as long as the longest
MOST_WAITING = 256  # locksteps in the queue
PREFIX_TOKENS = 8 * 1024
GATHER_SECONDS = 0.001  # how long a step_ waits for sessions that are about to ask


class NeedsRows(Protocol):
    """What takes rows."""

    @property
    def branch_prompts(self) -> Sequence[BranchPrompt]: ...


Rows = TypeVar("Rows", bound=NeedsRows)


@dataclass(eq=False)
class Lockstep:
    """Sessions that one reader follows together, one step each at a time."""

    sessions: Sequence[Session]
    groups: list[RowGroup] = field(default_factory=list)
    waiting: bool = False
    left: bool = False
    served_at: float = field(default_factory=time.perf_counter)
    thinks: float = 0.0  # seconds between a step and the wish for the next, lately

    @property
    def ready(self) -> bool:
        """Whether every session has its step or has ended."""
        return all(group.ready for group in self.groups)

    def about_to_ask(self, until: float) -> bool:
        """Whether it is likely to ask for steps before a time that is at hand; who has paused is not."""
        quick = self.thinks < GATHER_SECONDS and until - self.served_at < 2 * GATHER_SECONDS
        return quick and not self.waiting and not self.left


class Scheduler:
    """Runs the sessions of one model.

    Args:
        most_rows, most_tokens: what may be in flight at once, up to 64 rows; further sessions wait in a queue.
        fold: where to fold mixes into the weights; None never does by itself.
    """

    def __init__(
        self, model: Model, most_rows: int = MOST_ROWS, most_tokens: int = MOST_TOKENS, fold: AutoFold | None = None
    ) -> None:
        self._model, self._backend, self._fold = model, model.backend, fold
        self.most_rows, self.most_tokens = most_rows, max(most_tokens, model.context)
        self.prefixes = PrefixCache(PREFIX_TOKENS)
        self._free = list(range(most_rows, SCRATCH, -1))
        self._locksteps: list[Lockstep] = []
        self._queue: deque[Lockstep] = deque()
        self._turn = threading.Condition()
        self._computing = self._settling = self._unsettled = False
        self._sampler = Sampler([], ())
        self._around = 0.0  # seconds that a step_ takes besides the models' passes, lately

    @property
    def rows_in_use(self) -> int:
        """Rows of texts in flight."""
        return self.most_rows - len(self._free)

    def run(self, *sessions: Session) -> Iterator[tuple[Step | None, ...]]:
        """Run sessions together.

        Yields:
            one `Step` for each session, None for those that have ended. Closing the iterator closes the sessions.

        Raises:
            Busy: the queue is full. InvalidValue: they are more than there are rows.
        """
        lockstep = Lockstep(sessions)
        try:
            self._enter(lockstep)
            while any(session.finish_reason is None for session in sessions):
                self._advance(lockstep)
                errors = [group.error for group in lockstep.groups if group.error]
                if errors:
                    raise errors[0]
                steps = {id(group.session): group.step for group in lockstep.groups}
                step_ = tuple(steps.get(id(session)) for session in sessions)
                for group in lockstep.groups:
                    group.step = None
                if any(step_):
                    yield step_
        finally:
            for session in sessions:
                session.close()
            self._leave(lockstep)

    # What follows runs under the lock of `_turn`, but for `_step`.

    def _enter(self, lockstep: Lockstep) -> None:
        rows = sum(len(session.branch_prompts) for session in lockstep.sessions)
        if rows > self.most_rows:
            raise InvalidValue(
                f"{len(lockstep.sessions)} texts at once take {rows} rows, and this desk runs {self.most_rows}.",
                "Run fewer together, or shorter formulas.",
            )
        with self._turn:
            if len(self._queue) >= MOST_WAITING:
                raise Busy("The desk is full, and so is its queue.", "Try again in a moment.")
            self._queue.append(lockstep)
            for session in lockstep.sessions:
                session.on_close = self._notify
            self._settle()

    def _notify(self) -> None:
        with self._turn:
            self._turn.notify_all()

    def _admit(self) -> None:
        """Give rows to those who wait, first come first served; a lockstep goes in whole."""
        while self._queue:
            lockstep = self._queue[0]
            live = [session for session in lockstep.sessions if session.finish_reason is None]
            running = [group.session for other in self._locksteps for group in other.groups]
            rows = sum(len(session.branch_prompts) for session in live)
            longest = max((session.most_tokens for session in [*running, *live]), default=0)
            too_much = bool(running) and (self.rows_in_use + rows) * longest > self.most_tokens
            if too_much or rows > len(self._free):
                return
            self._queue.popleft()
            lockstep.groups = [
                RowGroup(session, [self._free.pop() for _ in session.branch_prompts]) for session in live
            ]
            self._locksteps.append(lockstep)

    def _leave(self, lockstep: Lockstep) -> None:
        """Waits for nobody: a reader may also be garbage that is collected in the midst of a pass, by its thread."""
        with self._turn:
            lockstep.left = True
            if lockstep in self._queue:
                self._queue.remove(lockstep)
            self._settle()

    def _settle(self) -> None:
        """Take back the rows of those who left, unless a pass uses them, and give rows to those who wait."""
        self._unsettled = True
        if self._settling:  # garbage collected right here; the loop below goes round once more
            return
        self._settling = True
        try:
            while self._unsettled:
                self._unsettled = False
                for lockstep in [lockstep for lockstep in self._locksteps if lockstep.left and not self._computing]:
                    while lockstep.groups:
                        self._release(lockstep, lockstep.groups[-1])
                    self._locksteps.remove(lockstep)
                self._admit()
        finally:
            self._settling = False
            self._turn.notify_all()

    def _release(self, lockstep: Lockstep, group: RowGroup) -> None:
        lockstep.groups.remove(group)
        self._free += [row_.row for row_ in group.rows_]
        for row_ in group.rows_:
            # Not to be waited for, since who has the model may be waiting for us; what stays then costs speed alone.
            model = row_.branch_prompt.model
            if model.lock.acquire(blocking=False):
                try:
                    model.backend.gate[row_.row] = model.backend.head_gate[row_.row] = None
                    if len(self._free) == self.most_rows:
                        model.backend.clear()
                finally:
                    model.lock.release()

    def _advance(self, lockstep: Lockstep) -> None:
        """Return when every session of the lockstep has its step or has ended; compute where nobody else does."""
        with self._turn:
            lockstep.thinks += 0.3 * (time.perf_counter() - lockstep.served_at - lockstep.thinks)
            lockstep.waiting = True
            for group in lockstep.groups:
                group.serve()
            self._turn.notify_all()
            while not (lockstep.groups and lockstep.ready):
                if all(session.finish_reason for session in lockstep.sessions):
                    break
                if self._computing or not lockstep.groups:
                    self._turn.wait()
                    continue
                self._computing = True
                try:
                    self._gather()
                    asking = [
                        group for other in self._locksteps if other.waiting for group in other.groups if not group.ready
                    ]
                    self._turn.release()
                    try:
                        self._step(asking)
                    finally:
                        self._turn.acquire()
                except BaseException:
                    lockstep.waiting = False  # its reader gets the error and no more steps
                    raise
                finally:
                    self._computing = False
                    for other in [other for other in self._locksteps if other.waiting and other.ready]:
                        other.waiting, other.served_at = False, time.perf_counter()
                    self._settle()
            lockstep.waiting = False
            ended = [group for group in lockstep.groups if group.session.finish_reason and not group.step]
            if ended and not self._computing:
                for group in ended:
                    self._release(lockstep, group)
                self._settle()

    def _gather(self) -> None:
        """Wait a moment for readers that are about to ask, so that they share the pass."""
        until = time.perf_counter() + GATHER_SECONDS
        while any(lockstep.about_to_ask(until) for lockstep in self._locksteps):
            left = until - time.perf_counter()
            if left <= 0 or not self._turn.wait(left):
                break

    @torch.inference_mode()
    def _step(self, groups: list[RowGroup]) -> None:
        """One forward pass of each model: what every group needs next, and a piece of every longer text."""
        if not groups:  # closed while others were waited for
            return
        began = time.perf_counter()
        models = {model.order: model for group in groups for model in group.session.models}
        held = [models[order] for order in sorted(models)]  # always alike, so that none waits in a ring
        for model in held:
            model.lock.acquire()
        try:
            rows = 1 + max(group.last_row for group in groups)
            for model in held:
                model.backend.reserve(rows, max(group.session.most_tokens for group in groups))
            for group in groups:
                try:
                    group.prepare(self.prefixes)
                except Exception as error:
                    group.fail(error)
            groups = [group for group in groups if not group.ready]
            if self._fold and groups:
                self._fold.settle(self._shared_mix(), max(group.session.room for group in groups))
            passes = sum([self._pass(model, groups) for model in held])
        finally:
            for model in held:
                model.lock.release()
        self._draw([group for group in groups if group.read_up])
        self._around += 0.1 * (time.perf_counter() - began - passes - self._around)

    def _pass(self, model: Model, groups: list[RowGroup]) -> float:
        """Bring one model's rows on; seconds in its network."""
        pieces = [
            (group, row_, stop)
            for group in groups
            for row_, stop in group.pending()
            if row_.branch_prompt.model is model
        ]
        ids: list[int] = []
        rows: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        read: list[tuple[RowGroup, Row, int, int]] = []
        budget = model.backend.chunk
        for group, row_, stop in sorted(pieces, key=lambda piece: piece[2] - piece[1].filled):
            count = stop - row_.filled
            if count > 1:
                count = min(count, budget)
                budget -= count
            if count <= 0:
                continue
            stop = row_.filled + count
            ids += row_.ids(group.tokens, row_.filled, stop)
            rows += [row_.row] * count
            positions += range(row_.filled, stop)
            first = max(row_.filled, row_.last(len(group.session.token_ids)))  # whose logits matter
            wanted += range(len(ids) - max(0, stop - first), len(ids))
            read.append((group, row_, stop, max(0, stop - first)))
        if not read:
            return 0.0
        start = time.perf_counter()
        logits = model.backend.forward(ids, rows, positions, wanted)
        states = model.backend.states
        seconds = time.perf_counter() - start
        if model.vocab > self._model.vocab:
            logits = logits[:, : self._model.vocab]
        for group in dict.fromkeys(group for group, *_ in read):
            group.passed(seconds + self._around)
        at = 0
        for group, row_, stop, count in read:
            row_.filled = stop
            for index in range(at, at + count):  # going over a tensor itself takes long
                row_.logits.append(logits[index])
                row_.states.append(states[index])
            at += count
            if count and not group.session.token_ids:
                self._keep_prefix(row_)
        return seconds

    def _keep_prefix(self, row_: Row) -> None:
        """Keep a prompt that was just read."""
        prompt = row_.branch_prompt.prompt_ids
        if row_.filled == len(prompt) and self.prefixes.wants(row_.key, prompt):
            self.prefixes.keep(row_.key, prompt, row_.branch_prompt.model.backend.snapshot(row_.row, len(prompt)))

    def _shared_mix(self) -> tuple[float, ...] | None:
        """The coefficients that all rows in flight have at rest, `(K,)`; None where they have not the same."""
        groups = [group for lockstep in list(self._locksteps) for group in list(lockstep.groups)]
        own = {
            self._backend.gate[row_.row]
            for group in groups
            for row_ in group.rows_
            if row_.branch_prompt.model is self._model
        }
        return own.pop() if len(own) == 1 and all(group.session.at_rest for group in groups) else None

    def _draw(self, groups: list[RowGroup]) -> None:
        """Sample the tokens that can be drawn, and hand out the steps."""
        while groups:
            rows: list[tuple[RowGroup, int, Tensor]] = []
            for group in groups:
                try:
                    rows += [(group, before, values) for before, values in group.values()]
                except Exception as error:  # its own reader's, whoever computes
                    group.fail(error)
            drawn = self._sample([(group.session, before, values) for group, before, values in rows])
            own: dict[RowGroup, list[tuple[int, float]]] = {}
            for (group, *_), result in zip(rows, drawn, strict=True):
                own.setdefault(group, []).append(result)
            groups = [group for group, results in own.items() if group.receive(results)]
            for group in own:
                group.serve(fresh=True)

    def _sample(self, rows: list[tuple[Session, int, Tensor]]) -> list[tuple[int, float]]:
        """A token and its log-probability for each (session, tokens before it, logits `(V,)`)."""
        scripts = [session.script(before, 1) for session, before, _ in rows]
        drawn = iter(self._sampled([row for row, script in zip(rows, scripts, strict=True) if not script]))
        return [
            (script[0], float(values[script[0]] - values.logsumexp(0))) if script else next(drawn)
            for (*_, values), script in zip(rows, scripts, strict=True)
        ]

    def _sampled(self, rows: list[tuple[Session, int, Tensor]]) -> list[tuple[int, float]]:
        """See `_sample`; for texts whose tokens are drawn."""
        if not rows:
            return []
        params = tuple(session.params for session, *_ in rows)
        if params != self._sampler.params:
            self._sampler = Sampler(params, self._model.eos_ids)
        tokens, logprobs = self._sampler(
            torch.stack([values for *_, values in rows]),
            [session.seed for session, *_ in rows],
            [before for _, before, _ in rows],
            [session.may_end(before) for session, before, _ in rows],
        )
        return list(zip(tokens, logprobs, strict=True))


def in_batches(parts: Iterable[Rows], rows: int) -> Iterator[list[Rows]]:
    """All of them in their order, as many together as fit into so many rows, and at least one."""
    batch: list[Rows] = []
    size = 0
    for part in parts:
        needs = len(part.branch_prompts)
        if batch and size + needs > rows:
            yield batch
            batch, size = [], 0
        batch.append(part)
        size += needs
    if batch:
        yield batch
