"""Many texts in as few passes as there are rows: jobs that are looked at while they grow, and left at any token.

`Desk.generate_batch` gives whole texts or raises; here an error is one job's own. Knows the desk's public names, and
neither files nor pages.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from mixer.decoding.lockstep import in_batches
from mixer.decoding.session import Session
from mixer.desk import BATCH_ROWS, Desk
from mixer.errors import Busy, MixerError
from mixer.values.request import Request


@dataclass(eq=False)
class BatchText:
    """One text to write, and how far it is.

    Attributes:
        name: begins the sentence of its error, such as `Row 3`.
        error: why it cannot be written, in a sentence; nothing where it can.
        scores: what the judges make of the text when it is whole.
        session: what writes it, once it has begun.
    """

    request: Request
    name: str = ""
    error: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    session: Session | None = None

    @property
    def rows_needed(self) -> int:
        """Rows of the batch that it takes."""
        return self.session.rows_needed if self.session else 0

    @property
    def text(self) -> str:
        """What is written so far, without the prompt."""
        return self.session.text if self.session else ""

    @property
    def written(self) -> bool:
        """Whether the text is whole."""
        return self.session is not None and self.session.finish_reason not in (None, "closed") and not self.error

    @property
    def done(self) -> bool:
        return self.written or bool(self.error)

    @property
    def share(self) -> float:
        """How much of the work is done, 0 to 1."""
        if self.done or self.session is None:
            return float(self.done)
        return len(self.session.token_ids) / self.request.params.max_new_tokens

    def begin(self, desk: Desk) -> None:
        """Make the session anew."""
        asked = self.request
        try:
            self.session = desk.session(
                asked.prompt, asked.mix, asked.params, formula=asked.formula, steering=asked.steering
            )
        except MixerError as error:
            self.fail(error)

    def fail(self, error: MixerError) -> None:
        self.error = f"{self.name}: {error}" if self.name else str(error)


def write(desk: Desk, jobs: Sequence[BatchText], rows: int = BATCH_ROWS) -> Generator[None, None, None]:
    """Write all jobs that have no error yet, in their order, as many together as fit into so many rows.

    Yields after every token; closing the iterator leaves the texts as they are and gives the rows back.

    Raises:
        Busy: the desk's queue is full.
    """
    for batch in in_batches(_begun(desk, jobs), rows):
        yield from _together(desk, batch)


def _begun(desk: Desk, jobs: Sequence[BatchText]) -> Iterator[BatchText]:
    """Those that can be written."""
    for job in jobs:
        if not job.error:
            job.begin(desk)
        if not job.error:
            yield job


def _together(desk: Desk, batch: Sequence[BatchText]) -> Generator[None, None, None]:
    """One batch. An error ends all its sessions: the rest is written again by halves, until the error is alone."""
    sessions = [job.session for job in batch if job.session]
    try:
        for _ in desk.lockstep(*sessions):
            _measure(desk, batch)
            yield
    except Busy:
        raise
    except MixerError as error:
        rest = [job for job in batch if not job.written]
        if len(rest) == 1:
            rest[0].fail(error)
            return
        for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
            for job in half:
                job.begin(desk)
            yield from _together(desk, half)
    _measure(desk, batch)


def _measure(desk: Desk, batch: Sequence[BatchText]) -> None:
    for job in batch:
        if job.written and not job.scores:
            job.scores = desk.scores(job.text)
