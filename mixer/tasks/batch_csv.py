"""A CSV of prompts as a batch: what its columns mean, the job that a row asks for, and the file that answers it.

    prompt,formality,reward.sentiment,aim.toxicity,formula,seed,tokens,temperature

Only `prompt` must be there; what a row leaves empty is as in a request given beside the file. A row that is wrong gets
a sentence and stops no other; a column that means nothing here is carried along. Opens no file and writes no text.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mixer.errors import InvalidValue, MixerError, UnknownName
from mixer.files.csv_table import Table, write_table
from mixer.tasks.batch import BatchText
from mixer.values.request import FIELDS
from mixer.values.steering import REST, Steering

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.values.request import Request

PROMPT = FIELDS["prompt"].column
SETTINGS = {field.column: field.name for field in FIELDS.values() if field.column and field.kind is not dict}
# What comes before the name of an attribute or a reward head: the column's own prefix, or the one that links have.
PREFIXES = {
    prefix: field.name
    for field in FIELDS.values()
    if field.kind is dict
    for prefix in (field.column, field.link)
    if prefix
}
RESULTS = ("text", "seed", "finish", "error")
SCORE = "score."


@dataclass(frozen=True)
class Column:
    """What a column means.

    Attributes:
        field: the name of a field in `FIELDS`; empty where the column means nothing here.
        name: of the attribute or reward head.
    """

    head: str
    field: str = ""
    name: str = ""


class BatchTable:
    """A table as jobs to write.

    Attributes:
        jobs: one for each row; those of wrong rows have an error already.
        notes: what to know of the columns, in sentences.

    Args:
        default: what a row leaves empty is as in it.
        served: whether the file comes from a client of a server, whose numbers have narrower bounds (`Field.served`).
        fewest_tokens: gives a row's `min_new_tokens` for its `max_new_tokens`.

    Raises:
        UnknownName: a column is about a reward or attribute that is not here. InvalidValue: two mean the same.
    """

    def __init__(
        self,
        desk: Desk,
        table: Table,
        default: Request,
        served: bool = False,
        fewest_tokens: Callable[[int], int] = lambda tokens: 0,
    ) -> None:
        self._desk, self._table, self._default = desk, table, default
        self._served, self._fewest_tokens = served, fewest_tokens
        self._judges = tuple(desk.scores("."))
        self._columns = [_column(head, desk.attributes, desk.rewards) for head in table.columns]
        meanings = [(column.field, column.name) for column in self._columns if column.field]
        for column in self._columns:
            if column.field and meanings.count((column.field, column.name)) > 1:
                raise InvalidValue(f"Two columns mean the same, one of them {column.head!r}.", "Leave one of them out.")
        self.notes = tuple(self._notes())
        numbers = table.numbers or range(2, len(table.rows) + 2)
        self.jobs = [self._job(f"Row {number}", row) for number, row in zip(numbers, table.rows, strict=True)]

    @property
    def done(self) -> int:
        """Rows that are written or cannot be."""
        return sum(job.done for job in self.jobs)

    def text(self, delimiter: str = ",") -> str:
        """The file that answers: the columns that came, `text`, a score of every judge, `seed`, `finish`, `error`.

        Rows that are not done are left out. Read again as a batch, it gives the same texts.
        """
        kept = [i for i, column in enumerate(self._columns) if column.field != "seed" and not _is_result(column.head)]
        head = [self._columns[i].head for i in kept]
        head += ["text", *(f"{SCORE}{name}" for name in self._judges), *RESULTS[1:]]
        done = [(job, row) for job, row in zip(self.jobs, self._table.rows, strict=True) if job.done]
        return write_table(head, ([*(row[i] for i in kept), *self._answer(job, row)] for job, row in done), delimiter)

    def _answer(self, job: BatchText, row: Sequence[str]) -> list[str]:
        if job.session is None or job.error:
            seed = next((cell for column, cell in zip(self._columns, row, strict=False) if column.field == "seed"), "")
            return ["", *[""] * len(self._judges), seed, "", job.error]
        scores = [f"{job.scores[name]:.4f}" if name in job.scores else "" for name in self._judges]
        return [job.text, *scores, str(job.session.seed), str(job.session.finish_reason), ""]

    def _notes(self) -> list[str]:
        """What becomes of the columns that mean nothing here."""
        known = [*SETTINGS, *self._desk.attributes, *(f"reward.{name}" for name in self._desk.rewards)]
        notes, carried = [], []
        for column in self._columns:
            if column.field or _is_result(column.head):
                continue
            near = difflib.get_close_matches(column.head, known, n=1, cutoff=0.75)
            if near:
                notes.append(f"The column {column.head!r} steers nothing. Did you mean {near[0]}?")
            else:
                carried.append(column.head or "without a name")
        if carried:
            notes.append(f"Carried along as they are: {', '.join(carried)}.")
        return notes

    def _job(self, name: str, row: Sequence[str]) -> BatchText:
        if len(row) > len(self._columns) and any(row[len(self._columns) :]):
            hint = "Put a cell that holds one of the delimiters in double quotes."
            error = InvalidValue(f"{name} has {len(row)} cells, and the header has {len(self._columns)}.", hint)
            return BatchText(self._default, name, str(error))
        request, steered = self._default, set[str]()
        for column, cell in zip(self._columns, row, strict=False):
            if not cell.strip() or not column.field:
                continue
            try:
                if column.field in ("rewards", "levels"):
                    if column.name in steered:
                        raise InvalidValue(f"{column.name} has both a reward and an aim.", "Leave one of them empty.")
                    steered.add(column.name)
                request = self._with(request, column, cell)
            except MixerError as error:
                return BatchText(request, name, f"{name}, column {column.head}: {error}")
        return BatchText(request, name)

    def _with(self, request: Request, column: Column, cell: str) -> Request:
        """The request with what one cell asks for."""
        field, params = FIELDS[column.field], request.params
        match column.field:
            case "prompt":
                return replace(request, prompt=cell)
            case "formula":
                self._desk.formula(cell)
                return replace(request, formula=cell)
            case "tokens":
                most = field.check(_whole(cell), self._served)
                fewest = self._fewest_tokens(most)
                return replace(request, params=replace(params, max_new_tokens=most, min_new_tokens=fewest))
            case "seed" | "temperature":
                number = field.check(_whole(cell) if field.kind is int else _number(cell), self._served)
                return replace(request, params=replace(params, **{field.argument: number}))
            case "positions":
                position = field.check(_number(cell), self._served)
                return replace(request, mix=request.mix.with_position(column.name, position))
        resting = request.steering == REST
        steering = Steering() if resting else request.steering
        move = steering.with_position if column.field == "rewards" else steering.with_level
        steering = move(column.name, _number(cell))
        return replace(request, steering=steering if steering.heads or not resting else REST)


def sample(desk: Desk) -> str:
    """A small file that this desk understands."""
    names = list(desk.attributes)[:2]
    rows = [("The customer said,", ("0.8", "-0.8"), "7"), ("Dear neighbour,", ("-1", ""), "")]
    return write_table([PROMPT, *names, "seed"], [[prompt, *at[: len(names)], seed] for prompt, at, seed in rows])


def _is_result(head: str) -> bool:
    return head in RESULTS or head.startswith(SCORE)


def _column(head: str, attributes: Collection[str], rewards: Collection[str]) -> Column:
    """What a column's head means here.

    Raises:
        UnknownName: its prefix says what it is about, and that is not here.
    """
    if head.casefold() in SETTINGS:
        return Column(head, SETTINGS[head.casefold()])
    if head in attributes and not _is_result(head):
        return Column(head, "positions", head)
    for prefix, field in PREFIXES.items():
        if head.startswith(prefix):
            name, known = head.removeprefix(prefix), attributes if field == "positions" else rewards
            if name not in known:
                raise UnknownName("attribute" if field == "positions" else "reward", name, known)
            return Column(head, field, name)
    return Column(head)


def _number(cell: str) -> float:
    """A number with a decimal point or, as many spreadsheets write it, a comma."""
    try:
        return float(cell.strip().replace(",", "."))
    except ValueError:
        raise InvalidValue(f"{cell.strip()[:40]!r} is no number.", "Write it as 0.6.") from None


def _whole(cell: str) -> float:
    """A whole number, which spreadsheets write as 7.0 where other rows of its column are empty."""
    try:
        return int(cell)
    except ValueError:
        number = _number(cell)
    if "," in cell or (math.isfinite(number) and number != int(number)):
        raise InvalidValue(f"{cell.strip()[:40]} is no whole number.", "Write it with digits alone.")
    return number
