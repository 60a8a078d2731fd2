"""Batches of texts that can be watched while they grow, and stopped at any token.

`Desk.generate_batch` returns whole texts or raises. Here an error ends only the text that it belongs to. This module
uses the desk's public names. It knows neither files nor pages.
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
    """One text of a batch, called a job, and its progress.

    Attributes:
        name: the job's error begins with it, such as `Row 3`.
        error: why the text cannot be written, in a sentence; empty if it can.
        scores: the judges' scores of the finished text, by name.
        session: writes the text; None before the job has begun.
    """

    request: Request
    name: str = ""
    error: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    session: Session | None = None

    @property
    def rows_needed(self) -> int:
        """Rows of the forward pass that the job takes."""
        return self.session.rows_needed if self.session else 0

    @property
    def text(self) -> str:
        """The text so far, without the prompt."""
        return self.session.text if self.session else ""

    @property
    def written(self) -> bool:
        """Whether the text is finished."""
        return self.session is not None and self.session.finish_reason not in (None, "closed") and not self.error

    @property
    def done(self) -> bool:
        """Whether the text is finished or cannot be written."""
        return self.written or bool(self.error)

    @property
    def share(self) -> float:
        """The share of the job's tokens that are written, 0 to 1."""
        if self.done or self.session is None:
            return float(self.done)
        return len(self.session.token_ids) / self.request.params.max_new_tokens

    def begin(self, desk: Desk) -> None:
        """Create a new session for the request. If that fails, the job gets an error."""
        request = self.request
        try:
            self.session = desk.session(
                request.prompt, request.mix, request.params, formula=request.formula, steering=request.steering
            )
        except MixerError as error:
            self.fail(error)

    def fail(self, error: MixerError) -> None:
        """Set the job's error."""
        self.error = f"{self.name}: {error}" if self.name else str(error)


def write(desk: Desk, jobs: Sequence[BatchText], rows: int = BATCH_ROWS) -> Generator[None, None, None]:
    """Write all jobs that have no error, in their order. As many jobs run together as fit into `rows` rows.

    Yields after every step, which gives each running job one token. If the iterator is closed, the texts stay as they
    are and the rows are given back.

    Raises:
        Busy: the desk's queue is full.
    """
    for batch in in_batches(_begun(desk, jobs), rows):
        yield from _write_together(desk, batch)


def _begun(desk: Desk, jobs: Sequence[BatchText]) -> Iterator[BatchText]:
    """Begin the jobs that have no error, and yield those that could begin."""
    for job in jobs:
        if not job.error:
            job.begin(desk)
        if not job.error:
            yield job


def _write_together(desk: Desk, batch: Sequence[BatchText]) -> Generator[None, None, None]:
    """Write one batch in lockstep.

    An error ends all sessions of a lockstep. The unfinished jobs are then begun again in two halves, and so on, until
    the job that raises is alone.
    """
    sessions = [job.session for job in batch if job.session]
    try:
        for _ in desk.lockstep(*sessions):
            _score_finished(desk, batch)
            yield
    except Busy:
        raise
    except MixerError as error:
        unfinished = [job for job in batch if not job.written]
        if len(unfinished) == 1:
            unfinished[0].fail(error)
            return
        middle = len(unfinished) // 2
        for half in (unfinished[:middle], unfinished[middle:]):
            for job in half:
                job.begin(desk)
            yield from _write_together(desk, half)
    _score_finished(desk, batch)


def _score_finished(desk: Desk, batch: Sequence[BatchText]) -> None:
    for job in batch:
        if job.written and not job.scores:
            job.scores = desk.scores(job.text)
