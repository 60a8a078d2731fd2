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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from mixer.engine import Session, Step
from mixer.errors import Busy, InvalidValue
from mixer.fold import AutoFold
from mixer.model import MOST_ROWS, SCRATCH, Model
from mixer.prefix import PrefixCache
from mixer.sampling import Sampler

MOST_TOKENS = 64 * 1024  # in all rows together, each counted as long as the longest
MOST_WAITING = 256  # parties in the queue
PREFIX_TOKENS = 8 * 1024
GATHER_SECONDS = 0.001  # how long a tick waits for sessions that are about to ask


@dataclass
class Seat:
    """A session's row: its tokens, and how many of them are in the cache under the present mix.

    While they are being read, all under one mix, `reading` holds. `error` is what made the session's step impossible.
    """

    session: Session
    row: int
    ids: list[int]
    filled: int = 0
    reading: bool = False
    step: Step | None = None
    error: Exception | None = None

    @property
    def ready(self) -> bool:
        """Whether it has its step or will get none."""
        return bool(self.step or self.error or self.session.finish_reason)


@dataclass(eq=False)
class Party:
    """Sessions that one reader follows together, one step each at a time."""

    sessions: Sequence[Session]
    seats: list[Seat] = field(default_factory=list)
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
        self._parties: list[Party] = []
        self._queue: deque[Party] = deque()
        self._turn = threading.Condition()
        self._computing = self._settling = self._unsettled = False
        self._sampler = Sampler([], ())

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
        party = Party(sessions)
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

    def _enter(self, party: Party) -> None:
        if len(party.sessions) > self.most_rows:
            raise InvalidValue(
                f"{len(party.sessions)} texts at once are more than the {self.most_rows} that this desk runs.",
                "Run fewer together.",
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
            longest = max(map(self._room, [*running, *live]), default=0)
            too_much = bool(running) and (len(running) + len(live)) * longest > self.most_tokens
            if too_much or len(live) > len(self._free):
                return
            self._queue.popleft()
            party.seats = [Seat(session, self._free.pop(), list(session.prompt_ids)) for session in live]
            self._parties.append(party)

    def _room(self, session: Session) -> int:
        """Tokens that a session may come to hold."""
        return min(len(session.prompt_ids) + session.params.max_new_tokens, self._model.context)

    def _leave(self, party: Party) -> None:
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

    def _release(self, party: Party, seat: Seat) -> None:
        party.seats.remove(seat)
        self._free.append(seat.row)
        # Not to be waited for, since who has the model may be waiting for us; what stays then costs speed alone.
        if self._model.lock.acquire(blocking=False):
            try:
                self._network.gate[seat.row] = None
                if len(self._free) == self.most_rows:
                    self._network.clear()
            finally:
                self._model.lock.release()

    def _advance(self, party: Party) -> None:
        """Return when every session of the party has its step or has ended; compute where nobody else does."""
        with self._turn:
            party.thinks += 0.3 * (time.perf_counter() - party.served_at - party.thinks)
            party.waiting = True
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
    def _tick(self, seats: list[Seat]) -> None:
        """One forward pass: the next token of every row that is read up, and a piece of every other row."""
        if not seats:
            return
        with self._model.lock:
            self._network.reserve(max(seat.row for seat in seats) + 1, max(self._room(seat.session) for seat in seats))
            ids: list[int] = []
            rows: list[int] = []
            positions: list[int] = []
            wanted: list[int] = []
            drawing: list[Seat] = []
            filled: list[tuple[Seat, int]] = []
            budget = self._network.chunk
            for seat in sorted(seats, key=lambda seat: len(seat.ids) - seat.filled):
                self._prepare(seat)
                count = min(len(seat.ids) - seat.filled, budget if len(seat.ids) - seat.filled > 1 else 1)
                if count <= 0:
                    continue
                if count > 1:
                    budget -= count
                stop = seat.filled + count
                ids += seat.ids[seat.filled : stop]
                rows += [seat.row] * count
                positions += range(seat.filled, stop)
                filled.append((seat, stop))
                if stop == len(seat.ids):
                    wanted.append(len(ids) - 1)
                    drawing.append(seat)
            if self._fold:
                self._fold.settle(self._shared_mix(), max(self._left(seat) for seat in seats))
            logits = self._network.forward(ids, rows, positions, wanted)
            for seat, stop in filled:
                seat.filled, seat.reading = stop, stop < len(seat.ids)
            for seat in drawing:
                self._keep_prefix(seat)
        if drawing:
            self._draw(drawing, logits)

    def _shared_mix(self) -> tuple[float, ...] | None:
        """The coefficients that all texts in flight have at rest, `(K,)`; None where they have not the same."""
        seats = [seat for party in list(self._parties) for seat in list(party.seats)]
        own = {self._network.gate[seat.row] for seat in seats}
        return own.pop() if len(own) == 1 and all(seat.session.at_rest for seat in seats) else None

    def _left(self, seat: Seat) -> int:
        """Tokens that a session may still write."""
        return seat.session.params.max_new_tokens - len(seat.session.token_ids)

    def _prepare(self, seat: Seat) -> None:
        """Bring a row to its session's mix; while its tokens are being read, the mix stays as it is."""
        session = seat.session
        if seat.filled == len(seat.ids):  # read, and then the draw broke off
            seat.filled, seat.reading = seat.filled - 1, True
        if seat.reading:
            return
        if session.apply(self._network.gate, seat.row):
            seat.ids = [*session.prompt_ids, *session.token_ids]
            seat.filled = 0
        if seat.filled == 0:
            known, snapshot = self.prefixes.find(session.current.key, seat.ids)
            if known:
                known = min(known, len(seat.ids) - 1)
                self._network.restore(seat.row, snapshot, known)
                seat.filled, seat.reading = known, True

    def _keep_prefix(self, seat: Seat) -> None:
        """Keep a prompt that was just read."""
        if not seat.session.token_ids and self.prefixes.wants(seat.session.current.key, seat.ids):
            snapshot = self._network.snapshot(seat.row, len(seat.ids))
            self.prefixes.keep(seat.session.current.key, seat.ids, snapshot)

    def _draw(self, seats: list[Seat], logits: torch.Tensor) -> None:
        """Sample a token for each row, `(B, V)`, and hand out the steps."""
        sessions = [seat.session for seat in seats]
        params = tuple(session.params for session in sessions)
        if params != self._sampler.params:
            self._sampler = Sampler(params, self._model.eos_ids)
        tokens, logprobs = self._sampler(
            logits,
            [session.seed for session in sessions],
            [len(session.token_ids) for session in sessions],
            [session.may_end for session in sessions],
        )
        for seat, token, logprob in zip(seats, tokens, logprobs, strict=True):
            if seat.session.finish_reason:  # closed during the pass
                continue
            try:
                seat.step = seat.session.take(token, logprob)
            except Exception as error:  # its own reader's, whoever computes
                seat.error = error
            seat.ids.append(token)
