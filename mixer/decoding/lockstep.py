"""Sessions that one reader follows together, one step each at a time; and sessions packed into batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from mixer.decoding.rows import RowGroup
from mixer.decoding.session import Session


@dataclass(eq=False)
class Lockstep:
    """Sessions that one reader follows together.

    Attributes:
        groups: rows of those that were admitted and have not ended.
        waiting: whether the reader waits for steps.
        left: whether the reader has gone.
        served_at: when the reader got its last steps.
        pause: seconds between getting a step and asking for the next one; a moving average.
    """

    sessions: Sequence[Session]
    groups: list[RowGroup] = field(default_factory=list)
    waiting: bool = False
    left: bool = False
    served_at: float = field(default_factory=time.perf_counter)
    pause: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether every session has its step or has ended."""
        return all(group.ready for group in self.groups)

    @property
    def ended(self) -> bool:
        """Whether every session has ended."""
        return all(session.finish_reason for session in self.sessions)

    def ask(self) -> None:
        """The reader waits from now on."""
        self.pause += 0.3 * (time.perf_counter() - self.served_at - self.pause)
        self.waiting = True
        for group in self.groups:
            group.serve()

    def about_to_ask(self, until: float, gather_seconds: float) -> bool:
        """Whether the reader is likely to ask before `until`; a reader that has paused is not."""
        quick = self.pause < gather_seconds and until - self.served_at < 2 * gather_seconds
        return quick and not self.waiting and not self.left


class NeedsRows(Protocol):
    """What takes rows of a batch."""

    @property
    def rows_needed(self) -> int: ...


Part = TypeVar("Part", bound=NeedsRows)


def in_batches(parts: Iterable[Part], rows: int) -> Iterator[list[Part]]:
    """All parts in their order, as many together as fit into so many rows, and at least one."""
    batch: list[Part] = []
    size = 0
    for part in parts:
        if batch and size + part.rows_needed > rows:
            yield batch
            batch, size = [], 0
        batch.append(part)
        size += part.rows_needed
    if batch:
        yield batch
