"""A CSV table of prompts as a batch: the meaning of its columns, a job for each row, and a table of the results.

    prompt,reply,system,formality,reward.sentiment,aim.toxicity,formula,seed,tokens,temperature,bias.colour

Only a column `prompt`, or `messages` in its place, is required. `reply` is yes or no, `messages` a JSON list. Every
sampling parameter has a column. A cell of texts, such as those that stop the writing, is one text or a JSON list. An
empty cell takes its value from a default request. A wrong row gets an error and does not stop the others. Unknown
columns are copied into the results. This module opens no files and generates no text.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mixer.errors import InvalidValue, MixerError, UnknownName
from mixer.files.csv_table import Table, write_table
from mixer.tasks.batch import BatchText
from mixer.tasks.cells import read_cell, read_key, read_number, read_whole
from mixer.values.chat import Conversation, prompt_of
from mixer.values.request import FIELDS, SAMPLING
from mixer.values.steering import REST, Steering

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.values.request import Request

REQUIRED = tuple(FIELDS[name].column for name in ("prompt", "messages"))  # a file has at least one of these columns
ASKED = ("prompt", "reply", "system", "messages")  # the fields that say what is written on from
SETTINGS = {field.column: field.name for field in FIELDS.values() if field.column and field.kind is not dict}
# Prefix of a column -> field. After the prefix comes the name of an attribute or a reward head, or a word. Prefixes of
# share links are accepted too.
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
    """The meaning of a column.

    Attributes:
        head: the column's name in the file.
        field: the name of a field in `FIELDS`; empty for an unknown column.
        name: of the attribute or reward head, or the word, if the field has one.
    """

    head: str
    field: str = ""
    name: str = ""


class BatchTable:
    """A CSV table as jobs to write.

    Args:
        default: the values of empty cells. Its prompt is a text.
        served: whether the file comes from a client of a server, whose numbers have narrower bounds (`Field.served`).
        fewest_tokens: gives a row's `min_new_tokens` from its `max_new_tokens` and whether it replies. If None, it is
            the default's, or `max_new_tokens` if that is less.
        reply, system: the values of empty cells of these columns.

    Attributes:
        desk: the desk that the columns and cells are checked against.
        jobs: one for each row. The jobs of wrong rows have an error from the start.
        notes: sentences about unknown columns.

    Raises:
        UnknownName: a column names a reward or attribute that the desk does not have.
        InvalidValue: two columns mean the same.
    """

    def __init__(
        self,
        desk: Desk,
        table: Table,
        default: Request,
        served: bool = False,
        fewest_tokens: Callable[[int, bool], int] | None = None,
        reply: bool = False,
        system: str = "",
    ) -> None:
        self.desk, self._table, self._default, self._served = desk, table, default, served
        self._reply, self._system = reply, system
        usual = default.params.min_new_tokens
        self._fewest_tokens = fewest_tokens or (lambda most, reply: min(usual, most))
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
        """Number of rows whose text is finished or cannot be written."""
        return sum(job.done for job in self.jobs)

    def text(self, delimiter: str = ",") -> str:
        """The results as CSV: the columns of the file, `text`, a score of every judge, `seed`, `finish`, `error`.

        Rows that are not done are left out. If the results are read as a batch, they give the same texts again.
        """
        kept = [i for i, column in enumerate(self._columns) if column.field != "seed" and not _is_result(column.head)]
        head = [self._columns[i].head for i in kept]
        head += ["text", *(f"{SCORE}{name}" for name in self._judges), *RESULTS[1:]]
        done = [(job, row) for job, row in zip(self.jobs, self._table.rows, strict=True) if job.done]
        return write_table(head, ([*(row[i] for i in kept), *self._results(job, row)] for job, row in done), delimiter)

    def _results(self, job: BatchText, row: Sequence[str]) -> list[str]:
        """The cells of one row's results."""
        if job.session is None or job.error:
            seed = next((cell for column, cell in zip(self._columns, row, strict=False) if column.field == "seed"), "")
            return ["", *[""] * len(self._judges), seed, "", job.error]
        scores = [f"{job.scores[name]:.4f}" if name in job.scores else "" for name in self._judges]
        return [job.text, *scores, str(job.session.seed), str(job.session.finish_reason), ""]

    def _notes(self) -> list[str]:
        """Sentences about unknown columns: a known name that is close, or that the column is copied."""
        known = [*SETTINGS, *self.desk.attributes, *(f"reward.{name}" for name in self.desk.rewards)]
        notes, copied = [], []
        for column in self._columns:
            if column.field or _is_result(column.head):
                continue
            near = difflib.get_close_matches(column.head, known, n=1, cutoff=0.75)
            if near:
                notes.append(f"The column {column.head!r} steers nothing. Did you mean {near[0]}?")
            else:
                copied.append(column.head or "without a name")
        if copied:
            notes.append(f"Carried along as they are: {', '.join(copied)}.")
        return notes

    def _job(self, name: str, row: Sequence[str]) -> BatchText:
        """The job of a row; `name` begins its error."""
        if len(row) > len(self._columns) and any(row[len(self._columns) :]):
            hint = "Put a cell that holds one of the delimiters in double quotes."
            error = InvalidValue(f"{name} has {len(row)} cells, and the header has {len(self._columns)}.", hint)
            return BatchText(self._default, name, str(error))
        request, where, asked, steered = self._default, name, dict[str, Any](), set[str]()
        # The most tokens come first, because they limit the fewest.
        ordered = sorted(zip(self._columns, row, strict=False), key=lambda one: one[0].field != "tokens")
        cells = [(column, cell) for column, cell in ordered if column.field and cell.strip()]
        try:
            for column, cell in cells:
                if column.field in ASKED:
                    where, field = f"{name}, column {column.head}", FIELDS[column.field]
                    asked[column.field] = field.check(read_cell(cell, field.kind), self._served)
            where = name
            request = self._asking(asked)
            for column, cell in cells:
                if column.field in ASKED:
                    continue
                where = f"{name}, column {column.head}"
                if column.field in ("rewards", "levels"):
                    if column.name in steered:
                        raise InvalidValue(f"{column.name} has both a reward and an aim.", "Leave one of them empty.")
                    steered.add(column.name)
                request = self._with(request, column, cell)
        except MixerError as error:
            return BatchText(request, name, f"{where}: {error}")
        return BatchText(request, name)

    def _asking(self, asked: Mapping[str, Any]) -> Request:
        """The default request with what a row's cells of the fields `ASKED` write on from.

        Raises:
            InvalidValue: there are a prompt and messages, or nothing to reply to.
        """
        messages = asked.get("messages")
        text = asked.get("prompt", str(self._default.prompt) if messages is None else "")
        reply, system = asked.get("reply", self._reply), asked.get("system", self._system)
        request = replace(self._default, prompt=prompt_of(text, reply, system, messages))
        return self._sized(request, request.params.max_new_tokens)

    def _sized(self, request: Request, most: int) -> Request:
        """The request with so many tokens at most, and the fewest that go with them."""
        fewest = self._fewest_tokens(most, isinstance(request.prompt, Conversation))
        return replace(request, params=replace(request.params, max_new_tokens=most, min_new_tokens=fewest))

    def _with(self, request: Request, column: Column, cell: str) -> Request:
        """The request with the value of one cell."""
        field, params = FIELDS[column.field], request.params
        match column.field:
            case "formula":
                self.desk.formula(cell)
                return replace(request, formula=cell)
            case "tokens":
                return self._sized(request, field.check(read_whole(cell), self._served))
            case "bias":
                biases = {**dict(params.biases), read_key(column.name): field.check(read_number(cell), self._served)}
                return replace(request, params=replace(params, logit_bias=biases))
            case "positions":
                position = field.check(read_number(cell), self._served)
                return replace(request, mix=request.mix.with_position(column.name, position))
        if column.field in SAMPLING:
            value = field.check(read_cell(cell, field.kind), self._served)
            return replace(request, params=replace(params, **{field.argument: value}))
        at_rest = request.steering == REST
        steering = Steering() if at_rest else request.steering
        change = steering.with_position if column.field == "rewards" else steering.with_level
        steering = change(column.name, read_number(cell))
        return replace(request, steering=steering if steering.heads or not at_rest else REST)


def sample(desk: Desk) -> str:
    """A small CSV file with columns of this desk, as an example."""
    names = list(desk.attributes)[:2]
    rows = [("The customer said,", ("0.8", "-0.8"), "7"), ("Dear neighbour,", ("-1", ""), "")]
    cells = [[prompt, *positions[: len(names)], seed] for prompt, positions, seed in rows]
    return write_table([FIELDS["prompt"].column, *names, "seed"], cells)


def _is_result(head: str) -> bool:
    return head in RESULTS or head.startswith(SCORE)


def _column(head: str, attributes: Collection[str], rewards: Collection[str]) -> Column:
    """The meaning of a column's name in the file.

    Raises:
        UnknownName: it has a known prefix, but the desk does not have the attribute or reward after it.
    """
    if head.casefold() in SETTINGS:
        return Column(head, SETTINGS[head.casefold()])
    if head in attributes and not _is_result(head):
        return Column(head, "positions", head)
    for prefix, field in PREFIXES.items():
        if head.startswith(prefix):
            name, known = head.removeprefix(prefix), attributes if field == "positions" else rewards
            if field == "bias":
                return Column(head, field, name)
            if name not in known:
                raise UnknownName("attribute" if field == "positions" else "reward", name, known)
            return Column(head, field, name)
    return Column(head)
