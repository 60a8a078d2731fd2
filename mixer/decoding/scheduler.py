"""Who computes when: sessions of all users as rows of one batch, admitted and retired at any step.

Nobody owns the loop. Whoever waits for a step and finds no one computing computes one tick: a single forward pass that
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
MOST_WAITING = 256  # parties in the queue
PREFIX_TOKENS = 8 * 1024
GATHER_SECONDS = 0.001  # how long a tick waits for sessions that are about to ask


class NeedsRows(Protocol):
    """What takes rows."""

    @property
    def readings(self) -> Sequence[BranchPrompt]: ...


Rows = TypeVar("Rows", bound=NeedsRows)


@dataclass(eq=False)
class Lockstep:
    """Sessions that one reader follows together, one step each at a time."""

    sessions: Sequence[Session]
    seats: list[RowGroup] = field(default_factory=list)
    waiting: bool = False
    left: bool = False
    served_at: float = field(default_factory=time.perf_counter)
    thinks: float = 0.0  # seconds between a step and the wish for the next, lately

    @property
    def ready(self) -> bool:
        """Whether every session has its step or has ended."""
        return all(seat.ready for seat in self.seats)

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
        self._model, self._network, self._fold = model, model.network, fold
        self.most_rows, self.most_tokens = most_rows, max(most_tokens, model.context)
        self.prefixes = PrefixCache(PREFIX_TOKENS)
        self._free = list(range(most_rows, SCRATCH, -1))
        self._parties: list[Lockstep] = []
        self._queue: deque[Lockstep] = deque()
        self._turn = threading.Condition()
        self._computing = self._settling = self._unsettled = False
        self._sampler = Sampler([], ())
        self._around = 0.0  # seconds that a tick takes besides the models' passes, lately

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
        party = Lockstep(sessions)
        try:
            self._enter(party)
            while any(session.finish_reason is None for session in sessions):
                self._advance(party)
                errors = [seat.error for seat in party.seats if seat.error]
                if errors:
                    raise errors[0]
                steps = {id(seat.session): seat.step for seat in party.seats}
                tick = tuple(steps.get(id(session)) for session in sessions)
                for seat in party.seats:
                    seat.step = None
                if any(tick):
                    yield tick
        finally:
            for session in sessions:
                session.close()
            self._leave(party)

    # What follows runs under the lock of `_turn`, but for `_tick`.

    def _enter(self, party: Lockstep) -> None:
        rows = sum(len(session.readings) for session in party.sessions)
        if rows > self.most_rows:
            raise InvalidValue(
                f"{len(party.sessions)} texts at once take {rows} rows, and this desk runs {self.most_rows}.",
                "Run fewer together, or shorter formulas.",
            )
        with self._turn:
            if len(self._queue) >= MOST_WAITING:
                raise Busy("The desk is full, and so is its queue.", "Try again in a moment.")
            self._queue.append(party)
            for session in party.sessions:
                session.on_close = self._notify
            self._settle()

    def _notify(self) -> None:
        with self._turn:
            self._turn.notify_all()

    def _admit(self) -> None:
        """Give rows to those who wait, first come first served; a party goes in whole."""
        while self._queue:
            party = self._queue[0]
            live = [session for session in party.sessions if session.finish_reason is None]
            running = [seat.session for other in self._parties for seat in other.seats]
            rows = sum(len(session.readings) for session in live)
            longest = max((session.most_tokens for session in [*running, *live]), default=0)
            too_much = bool(running) and (self.rows_in_use + rows) * longest > self.most_tokens
            if too_much or rows > len(self._free):
                return
            self._queue.popleft()
            party.seats = [RowGroup(session, [self._free.pop() for _ in session.readings]) for session in live]
            self._parties.append(party)

    def _leave(self, party: Lockstep) -> None:
        """Waits for nobody: a reader may also be garbage that is collected in the midst of a pass, by its thread."""
        with self._turn:
            party.left = True
            if party in self._queue:
                self._queue.remove(party)
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
                for party in [party for party in self._parties if party.left and not self._computing]:
                    while party.seats:
                        self._release(party, party.seats[-1])
                    self._parties.remove(party)
                self._admit()
        finally:
            self._settling = False
            self._turn.notify_all()

    def _release(self, party: Lockstep, seat: RowGroup) -> None:
        party.seats.remove(seat)
        self._free += [line.row for line in seat.lines]
        for line in seat.lines:
            # Not to be waited for, since who has the model may be waiting for us; what stays then costs speed alone.
            model = line.reading.model
            if model.lock.acquire(blocking=False):
                try:
                    model.network.gate[line.row] = model.network.lift[line.row] = None
                    if len(self._free) == self.most_rows:
                        model.network.clear()
                finally:
                    model.lock.release()

    def _advance(self, party: Lockstep) -> None:
        """Return when every session of the party has its step or has ended; compute where nobody else does."""
        with self._turn:
            party.thinks += 0.3 * (time.perf_counter() - party.served_at - party.thinks)
            party.waiting = True
            for seat in party.seats:
                seat.serve()
            self._turn.notify_all()
            while not (party.seats and party.ready):
                if all(session.finish_reason for session in party.sessions):
                    break
                if self._computing or not party.seats:
                    self._turn.wait()
                    continue
                self._computing = True
                try:
                    self._gather()
                    asking = [
                        seat for other in self._parties if other.waiting for seat in other.seats if not seat.ready
                    ]
                    self._turn.release()
                    try:
                        self._tick(asking)
                    finally:
                        self._turn.acquire()
                except BaseException:
                    party.waiting = False  # its reader gets the error and no more steps
                    raise
                finally:
                    self._computing = False
                    for other in [other for other in self._parties if other.waiting and other.ready]:
                        other.waiting, other.served_at = False, time.perf_counter()
                    self._settle()
            party.waiting = False
            ended = [seat for seat in party.seats if seat.session.finish_reason and not seat.step]
            if ended and not self._computing:
                for seat in ended:
                    self._release(party, seat)
                self._settle()

    def _gather(self) -> None:
        """Wait a moment for readers that are about to ask, so that they share the pass."""
        until = time.perf_counter() + GATHER_SECONDS
        while any(party.about_to_ask(until) for party in self._parties):
            left = until - time.perf_counter()
            if left <= 0 or not self._turn.wait(left):
                break

    @torch.inference_mode()
    def _tick(self, seats: list[RowGroup]) -> None:
        """One forward pass of each model: what every seat needs next, and a piece of every longer text."""
        if not seats:  # closed while others were waited for
            return
        began = time.perf_counter()
        models = {model.order: model for seat in seats for model in seat.session.models}
        held = [models[order] for order in sorted(models)]  # always alike, so that none waits in a ring
        for model in held:
            model.lock.acquire()
        try:
            rows = 1 + max(seat.last_row for seat in seats)
            for model in held:
                model.network.reserve(rows, max(seat.session.most_tokens for seat in seats))
            for seat in seats:
                try:
                    seat.prepare(self.prefixes)
                except Exception as error:
                    seat.fail(error)
            seats = [seat for seat in seats if not seat.ready]
            if self._fold and seats:
                self._fold.settle(self._shared_mix(), max(seat.session.room for seat in seats))
            passes = sum([self._pass(model, seats) for model in held])
        finally:
            for model in held:
                model.lock.release()
        self._draw([seat for seat in seats if seat.read_up])
        self._around += 0.1 * (time.perf_counter() - began - passes - self._around)

    def _pass(self, model: Model, seats: list[RowGroup]) -> float:
        """Bring one model's rows on; seconds in its network."""
        pieces = [(seat, line, stop) for seat in seats for line, stop in seat.pending() if line.reading.model is model]
        ids: list[int] = []
        rows: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        read: list[tuple[RowGroup, Row, int, int]] = []
        budget = model.network.chunk
        for seat, line, stop in sorted(pieces, key=lambda piece: piece[2] - piece[1].filled):
            count = stop - line.filled
            if count > 1:
                count = min(count, budget)
                budget -= count
            if count <= 0:
                continue
            stop = line.filled + count
            ids += line.ids(seat.tokens, line.filled, stop)
            rows += [line.row] * count
            positions += range(line.filled, stop)
            first = max(line.filled, line.last(len(seat.session.token_ids)))  # whose logits matter
            wanted += range(len(ids) - max(0, stop - first), len(ids))
            read.append((seat, line, stop, max(0, stop - first)))
        if not read:
            return 0.0
        start = time.perf_counter()
        logits = model.network.forward(ids, rows, positions, wanted)
        states = model.network.states
        seconds = time.perf_counter() - start
        if model.vocab > self._model.vocab:
            logits = logits[:, : self._model.vocab]
        for seat in dict.fromkeys(seat for seat, *_ in read):
            seat.passed(seconds + self._around)
        at = 0
        for seat, line, stop, count in read:
            line.filled = stop
            for index in range(at, at + count):  # going over a tensor itself takes long
                line.logits.append(logits[index])
                line.states.append(states[index])
            at += count
            if count and not seat.session.token_ids:
                self._keep_prefix(line)
        return seconds

    def _keep_prefix(self, line: Row) -> None:
        """Keep a prompt that was just read."""
        prompt = line.reading.prompt_ids
        if line.filled == len(prompt) and self.prefixes.wants(line.key, prompt):
            self.prefixes.keep(line.key, prompt, line.reading.model.network.snapshot(line.row, len(prompt)))

    def _shared_mix(self) -> tuple[float, ...] | None:
        """The coefficients that all rows in flight have at rest, `(K,)`; None where they have not the same."""
        seats = [seat for party in list(self._parties) for seat in list(party.seats)]
        own = {
            self._network.gate[line.row] for seat in seats for line in seat.lines if line.reading.model is self._model
        }
        return own.pop() if len(own) == 1 and all(seat.session.at_rest for seat in seats) else None

    def _draw(self, seats: list[RowGroup]) -> None:
        """Sample the tokens that can be drawn, and hand out the steps."""
        while seats:
            rows: list[tuple[RowGroup, int, Tensor]] = []
            for seat in seats:
                try:
                    rows += [(seat, before, values) for before, values in seat.values()]
                except Exception as error:  # its own reader's, whoever computes
                    seat.fail(error)
            drawn = self._sample([(seat.session, before, values) for seat, before, values in rows])
            own: dict[RowGroup, list[tuple[int, float]]] = {}
            for (seat, *_), result in zip(rows, drawn, strict=True):
                own.setdefault(seat, []).append(result)
            seats = [seat for seat, results in own.items() if seat.receive(results)]
            for seat in own:
                seat.serve(fresh=True)

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
        needs = len(part.readings)
        if batch and size + needs > rows:
            yield batch
            batch, size = [], 0
        batch.append(part)
        size += needs
    if batch:
        yield batch
