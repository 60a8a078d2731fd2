"""The stage: one component that shows what is being written, and the frames it is sent.

A frame is the whole visible state of a take as plain JSON: the deck takes the measured scores from the same frame, the
status line its figures. Its looks are in assets/stage.css and assets/stage.js. Does not know where text comes from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import gradio as gr

from mixer.ui.assets import script

State = Literal["idle", "running", "done", "stopped", "error"]


@dataclass
class Frame:
    """What the page shows.

    Attributes:
        state: where the take is; the other fields describe it.
        prompt: the prompt that both texts continue.
        base: the base model's text so far.
        mix: the mixed model's text so far, as (mix in words, text) from one change of the mix to the next.
        scores: attribute -> the judge's score of the mixed text in [0, 1].
        levels: reward that steers -> its own reading of the mixed text, 0 to 1 as far as it was trained well.
        nats: what the last tokens spent of the budget, on the average; None where nothing counts.
        note: what of the newest move has to wait for the next take, in a sentence, or nothing.
        seq: the newest deck move that a shown token was written under.
        status: figures for the status line.
        formula: what the mixed model's text is written by, in short; nothing where that is the sliders alone.
        error: one clear sentence for the reader, or nothing. With state "error" the texts shown before stay.
        fault: the place of an error in the formula, for the formula box, which then shows it.
    """

    state: State = "idle"
    prompt: str = ""
    base: str = ""
    mix: list[tuple[str, str]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)
    nats: float | None = None
    note: str = ""
    seq: int = 0
    status: dict[str, Any] = field(default_factory=dict)
    formula: str = ""
    error: str = ""
    fault: dict[str, str] | None = None

    def json(self) -> dict[str, Any]:
        """The frame as the browser gets it."""
        return asdict(self)


_PANE = """
<section class="pane" data-pane="{key}" aria-label="{title} text">
  <header><h2>{title}</h2><span class="what">{what}</span></header>
  <div class="body" tabindex="0" role="region" aria-label="{title} text, scrollable" lang="en"></div>
</section>
"""

_TEMPLATE = (
    """
<div class="stage">
  <div class="alert" role="alert" hidden></div>
  <div class="switch" role="group" aria-label="Which text to show">
    <button type="button" data-show="base" aria-pressed="false">Base</button>
    <button type="button" data-show="mix" aria-pressed="true">Mix</button>
  </div>
  <div class="panes">
"""
    + _PANE.format(key="base", title="Base", what="every slider at rest")
    + _PANE.format(key="mix", title="Mix", what="base")
    + """
  </div>
  <div class="sr-only" role="status"></div>
</div>
"""
)

STATUS = '<div class="status-line" aria-label="Figures of the last run"><span>ready</span></div>'


def component() -> gr.HTML:
    """The two panes; its value is a frame."""
    return gr.HTML(
        value=Frame().json(),  # pyright: ignore[reportArgumentType]  (any JSON value is passed on)
        html_template=_TEMPLATE,
        js_on_load=script("stage.js"),
        apply_default_css=False,
        elem_id="stage",
    )
