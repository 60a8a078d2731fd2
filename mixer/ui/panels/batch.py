"""The batch: a CSV in, a CSV out. The browser reads the file and saves the answer; nothing stays on the server.

What columns mean is in `mixer.tasks.batch_csv`; what a row leaves empty is as on the page when Run was pressed. Style
and behavior are in assets/web/batch.css and batch.js.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import Busy, InvalidValue
from mixer.ui.live.pace import Pace
from mixer.ui.panels.job import FRAMES, wire
from mixer.ui.state.controls import read_text
from mixer.ui.state.page_state import read_state
from mixer.ui.state.request import fewest_tokens, request
from mixer.ui.web import script

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.tasks.batch_csv import BatchTable
    from mixer.ui.live.browsers import BrowserSessions

MOST_ROWS = 200
MOST_CHARACTERS = 1_000_000
ROWS = 16  # of the desk's batch at once; other texts are written too
SHOWN = 4  # how many of the last rows are shown
SHORT = 200  # characters of a text that is shown
AT_ONCE = 2

_TEMPLATE = """
<section class="batch" aria-label="Batch of a CSV file">
  <div class="batch-head">
    <label class="choose">Choose a CSV…<input type="file" class="sr-only"
      accept=".csv,.tsv,.txt,text/csv,text/tab-separated-values"></label>
    <span class="file">or drop one here</span>
    <button type="button" class="run">Run</button>
    <button type="button" class="cancel" disabled>Cancel</button>
    <button type="button" class="download" disabled>Download</button>
    <button type="button" class="sample">Sample CSV</button>
  </div>
  <p class="alert" role="alert" hidden></p>
  <div class="course" hidden>
    <progress id="batch-progress" max="1" value="0"></progress>
    <label for="batch-progress"></label><span class="faults"></span>
  </div>
  <ul class="notes" hidden></ul>
  <table class="last" hidden>
    <caption>The last rows</caption>
    <thead><tr><th scope="col">Row</th><th scope="col">Prompt</th><th scope="col">Text</th></tr></thead>
    <tbody></tbody>
  </table>
  <p class="hint">The file needs a column prompt or messages. Others may be reply, system, any attribute, reward.NAME,
    aim.NAME, formula, seed, tokens and temperature; what a row leaves empty is as on the page. You get the same rows
    back with text, scores and seed. A row that is wrong says why, and stops no other.</p>
  <div class="sr-only" role="status"></div>
</section>
"""


def read_sheet(posted: object, desk: Desk) -> BatchTable:
    """What a client posted, checked: `{"state", "text"}`; the text is a CSV file.

    Raises:
        MixerError: it is not as the panel sends it, or the file is no CSV with prompts.
    """
    from mixer.files.csv_table import read_table
    from mixer.tasks.batch_csv import REQUIRED, BatchTable

    if not isinstance(posted, Mapping):
        raise InvalidValue("The batch is not an object.", "Send {state, text}.")
    table = read_table(read_text("The file", posted.get("text"), MOST_CHARACTERS), *REQUIRED, most_rows=MOST_ROWS)
    if not table.rows:
        raise InvalidValue("The file has a header and no rows.", "Put a prompt beneath it.")
    state = read_state(posted.get("state"), desk.attributes, desk.rewards)
    default, _ = request(desk, replace(state, reply=False))
    if state.fresh or state.seed is None:
        default = replace(default, params=replace(default.params, seed=None))  # one for each row
    return BatchTable(desk, table, default, True, fewest_tokens, state.reply, state.system)


def run(desk: Desk, sheet: BatchTable, flag: threading.Event) -> Iterator[dict[str, Any]]:
    """Frames of one batch, until it is done or the flag is set; closing the iterator gives the rows back.

    A frame is {state, done, total, share, wrong, notes, rows}; `rows` are the last ones, each {row, prompt, text,
    error}. The last frame also has the `csv` of all rows that are done, and an `error` if the desk has no free rows.
    """
    from mixer.tasks.batch import write

    pace, last = Pace(FRAMES), "done"
    found: dict[str, Any] = {}
    yield _frame(sheet, "running")
    try:
        with closing(write(desk, sheet.jobs, ROWS)) as steps:
            for _ in steps:
                if flag.is_set():
                    last = "stopped"
                    break
                if pace.due():
                    yield _frame(sheet, "running")
    except Busy as error:
        last, found = "error", {"error": str(error)}
    yield _frame(sheet, last) | found | {"csv": sheet.text() if sheet.done else ""}


def _frame(sheet: BatchTable, state: str) -> dict[str, Any]:
    jobs = sheet.jobs
    front = (
        max((place for place, job in enumerate(jobs) if job.written), default=-1) if state == "running" else len(jobs)
    )
    last = [job for job in jobs[: front + 1] if job.done][-SHOWN:]
    return {
        "state": state,
        "done": sheet.done,
        "total": len(jobs),
        "share": round(sum(job.share for job in jobs) / len(jobs), 4),
        "wrong": sum(bool(job.error) for job in jobs),
        "notes": list(sheet.notes),
        "rows": [
            {
                "row": job.name.removeprefix("Row "),
                "prompt": str(job.request.prompt)[:SHORT],
                "text": job.text[:SHORT],
                "error": job.error,
            }
            for job in last
        ],
    }


def panel(desk: Desk, browsers: BrowserSessions) -> None:
    """The batch in its tab."""
    from mixer.tasks.batch_csv import sample

    box = gr.HTML(
        html_template=_TEMPLATE,
        js_on_load=script("save.js", "batch.js"),
        apply_default_css=False,
        elem_id="batch-panel",
        most=MOST_CHARACTERS,
        sample=sample(desk),
    )
    wire(box, browsers, "batch", lambda posted, flag: run(desk, read_sheet(posted, desk), flag), AT_ONCE)
