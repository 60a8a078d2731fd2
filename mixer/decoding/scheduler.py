"""Who computes when: sessions of all users as rows of one batch, admitted and retired at any step.

Nobody owns the loop. A reader that waits for a step and finds nobody computing computes one step: a single forward pass
of each model that brings the next token of every session that is waiting, and a piece of every prompt in prefill. So a
session never runs ahead of its reader, and a slider move acts on the very next token.

Locks, always taken in this order: the scheduler's own, and then the models' by `Model.order`. The scheduler's own is
released while a step is computed. Knows sessions and rows; no pages, no files.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

from mixer.decoding.lockstep import Lockstep
from mixer.decoding.rows import REST_SECONDS, RowGroup
from mixer.decoding.session import Session
from mixer.decoding.step_runner import StepRunner
from mixer.decoding.steps import Step
from mixer.errors import Busy, InvalidValue
from mixer.model.auto_fold import AutoFold
from mixer.model.model import MOST_ROWS, SCRATCH, Model
from mixer.model.prefix_cache import PrefixCache

MOST_TOKENS = 64 * 1024  # in all rows together, each counted as long as the longest
MOST_WAITING = 256  # locksteps in the queue
PREFIX_TOKENS = 8 * 1024
GATHER_SECONDS = 0.001


class Scheduler:
    """Runs the sessions of one model.

    Args:
        most_rows, most_tokens: what may be in flight at once, up to 64 rows; further sessions wait in a queue. What one
            reader follows together runs, alone, even where it has more tokens.
        fold: where to fold mixes into the weights; None never does by itself.
        most_waiting: readers in the queue; one more is refused.
        prefix_tokens: tokens of prompts whose keys and values are kept for later texts.
        gather_seconds: how long a step waits for readers that are about to ask, so that they share the pass.
        rest_seconds: after so long without a move, `keep` computes stale keys and values anew.

    Attributes:
        turn: the condition under whose lock all of this is; notified whenever something changes.
        runner: what computes a step.
    """

    def __init__(
        self,
        model: Model,
        most_rows: int = MOST_ROWS,
        most_tokens: int = MOST_TOKENS,
        fold: AutoFold | None = None,
        most_waiting: int = MOST_WAITING,
        prefix_tokens: int = PREFIX_TOKENS,
        gather_seconds: float = GATHER_SECONDS,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self.most_rows, self.most_tokens = most_rows, max(most_tokens, model.context)
        self.most_waiting, self.gather_seconds, self.rest_seconds = most_waiting, gather_seconds, rest_seconds
        self.prefixes = PrefixCache(prefix_tokens)
        self.runner = StepRunner(model, self.prefixes, fold)
        self._free = list(range(most_rows, SCRATCH, -1))
        self._admitted: list[Lockstep] = []
        self._queue: deque[Lockstep] = deque()
        self.turn = threading.Condition()
        self._computing = self._settling = self._unsettled = False

    @property
    def rows_in_use(self) -> int:
        """Rows of texts in flight."""
        return self.most_rows - len(self._free)

    @property
    def waiting(self) -> int:
        """Readers in the queue."""
        return len(self._queue)

    @property
    def in_flight(self) -> list[RowGroup]:
        """The rows of all texts in flight."""
        return [group for lockstep in list(self._admitted) for group in list(lockstep.groups)]

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
            while not lockstep.ended:
                self._advance(lockstep)
                errors = [group.error for group in lockstep.groups if group.error]
                if errors:
                    raise errors[0]
                found = {id(group.session): group.step for group in lockstep.groups}
                steps = tuple(found.get(id(session)) for session in sessions)
                for group in lockstep.groups:
                    group.step = None
                if any(steps):
                    yield steps
        finally:
            for session in sessions:
                session.close()
            self._leave(lockstep)

    def wake(self) -> None:
        """Have everybody who waits look again: a session was closed."""
        with self.turn:
            self.turn.notify_all()

    def _enter(self, lockstep: Lockstep) -> None:
        """Put a lockstep at the end of the queue, and admit it if there is room."""
        rows = sum(session.rows_needed for session in lockstep.sessions)
        if rows > self.most_rows:
            raise InvalidValue(
                f"{len(lockstep.sessions)} texts at once take {rows} rows, and this desk runs {self.most_rows}.",
                "Run fewer together, or shorter formulas.",
            )
        with self.turn:
            if len(self._queue) >= self.most_waiting:
                raise Busy("The desk is full, and so is its queue.", "Try again in a moment.")
            self._queue.append(lockstep)
            self._settle()

    def _leave(self, lockstep: Lockstep) -> None:
        """Take a lockstep out. This never waits for a pass to end: a reader may be collected as garbage by the very
        thread that computes the pass."""
        with self.turn:
            lockstep.left = True
            if lockstep in self._queue:
                self._queue.remove(lockstep)
            self._settle()

    # All methods below are called with the lock of `turn` held.

    def _settle(self) -> None:
        """Take back the rows of readers that left, unless a pass uses them, and admit those who wait."""
        self._unsettled = True
        if self._settling:  # garbage was collected inside the loop below, which goes round once more
            return
        self._settling = True
        try:
            while self._unsettled:
                self._unsettled = False
                for lockstep in [one for one in self._admitted if one.left and not self._computing]:
                    while lockstep.groups:
                        self._release(lockstep, lockstep.groups[-1])
                    self._admitted.remove(lockstep)
                self._admit()
        finally:
            self._settling = False
            self.turn.notify_all()

    def _admit(self) -> None:
        """Give rows to those who wait, first come first served; a lockstep goes in whole."""
        while self._queue:
            lockstep = self._queue[0]
            live = [session for session in lockstep.sessions if session.finish_reason is None]
            running = [group.session for group in self.in_flight]
            rows = sum(session.rows_needed for session in live)
            longest = max((session.most_tokens for session in [*running, *live]), default=0)
            too_much = bool(running) and (self.rows_in_use + rows) * longest > self.most_tokens
            if too_much or rows > len(self._free):
                return
            self._queue.popleft()
            lockstep.groups = [
                RowGroup(session, [self._free.pop() for _ in range(session.rows_needed)], self.rest_seconds)
                for session in live
            ]
            self._admitted.append(lockstep)

    def _release(self, lockstep: Lockstep, group: RowGroup) -> None:
        """Free the rows of one session."""
        lockstep.groups.remove(group)
        self._free += [row.index for row in group.rows]
        for row in group.rows:
            # The lock is not waited for: whoever holds it may be waiting for us. A gate that stays set costs only time.
            model = row.branch_prompt.model
            if model.lock.acquire(blocking=False):
                try:
                    model.backend.gate[row.index] = model.backend.head_gate[row.index] = None
                    if len(self._free) == self.most_rows:
                        model.backend.clear()
                finally:
                    model.lock.release()

    def _advance(self, lockstep: Lockstep) -> None:
        """Return when every session of the lockstep has its step or has ended; compute where nobody else does."""
        with self.turn:
            lockstep.ask()
            self.turn.notify_all()
            while not (lockstep.groups and lockstep.ready) and not lockstep.ended:
                if self._computing or not lockstep.groups:
                    self.turn.wait()
                else:
                    self._compute(lockstep)
            lockstep.waiting, lockstep.served_at = False, time.perf_counter()
            ended = [group for group in lockstep.groups if group.session.finish_reason and not group.step]
            if ended and not self._computing:
                for group in ended:
                    self._release(lockstep, group)
                self._settle()

    def _compute(self, lockstep: Lockstep) -> None:
        """Compute one step for everybody who waits, in the thread of this lockstep's reader."""
        self._computing = True
        try:
            self.gather()
            asking = [group for one in self._admitted if one.waiting for group in one.groups if not group.ready]
            in_flight = self.in_flight
            self.turn.release()
            try:
                self.runner.run(asking, in_flight)
            finally:
                self.turn.acquire()
        except BaseException:
            lockstep.waiting = False  # its reader gets the error and no more steps
            raise
        finally:
            self._computing = False
            for other in [one for one in self._admitted if one.waiting and one.ready]:
                other.waiting, other.served_at = False, time.perf_counter()
            self._settle()

    def gather(self) -> None:
        """Wait a moment for readers that are about to ask, so that they share the pass."""
        until = time.perf_counter() + self.gather_seconds
        while any(lockstep.about_to_ask(until, self.gather_seconds) for lockstep in self._admitted):
            left = until - time.perf_counter()
            if left <= 0 or not self.turn.wait(left):
                break
