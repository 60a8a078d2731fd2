"""The stage: one component that shows the two texts, and the frames that are sent to it.

A frame is the whole visible state of a take as plain JSON: the deck takes the measured scores from it, and the status
line its figures. Style and behavior are in assets/web/stage.*; the comparison of the two texts is in twin.js. Does not
know where text comes from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import gradio as gr

from mixer.ui.state.page_state import PageState
from mixer.ui.web import script

Phase = Literal["idle", "running", "done", "stopped", "error"]


@dataclass
class Frame:
    """What the page shows.

    Attributes:
        state: the phase of the take.
        prompt: the prompt that both texts continue, or reply to.
        reply: whether they reply.
        base: the base model's text so far.
        mix: the mixed model's text so far: (sliders in words, text) for each part between two changes of the mix.
        scores: attribute -> the judge's score of the mixed text in [0, 1].
        levels: steering reward -> its own reading of the mixed text, about 0 to 1.
        nats: the mean of what the last tokens spent of the budget; None if the budget counts nothing.
        note: a sentence about the part of the newest move that waits for the next take, or empty.
        seq: sequence number of the newest deck move under which a shown token was written.
        status: figures for the status line.
        formula: title of the formula that the mixed text is written by; empty if that is the sliders alone.
        error: one sentence for the reader, or empty. With state "error" the texts shown before stay.
        fault: the place of an error in the formula, as `formula_text.place` gives it, for the formula box.
        written: only in the last frame: what the mixed text was written under, see `state.segments`.
    """

    state: Phase = "idle"
    prompt: str = ""
    reply: bool = False
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
    written: dict[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """The frame as the browser gets it."""
        return asdict(self)


_PANE = """
<section class="pane" data-pane="{key}" aria-label="{title} text">
  <header><h2>{title}</h2><span class="what">{what}</span></header>
  <div class="body" tabindex="0" role="region" aria-label="{title} text, scrollable" lang="en" dir="auto"></div>
</section>
"""

_TEMPLATE = (
    """
<div class="stage">
  <div class="alert" role="alert" hidden></div>
  <div class="twin" role="group" aria-label="Compare the texts">
    <div class="switch" role="group" aria-label="Which text to show">
      <button type="button" data-show="base" aria-pressed="false">Base</button>
      <button type="button" data-show="mix" aria-pressed="true">Mix</button>
    </div>
    <button type="button" class="swap" aria-pressed="false" title="The mix on the other side">Swap</button>
    <button type="button" aria-pressed="false" title="Hide which text is whose, and guess">Blind</button>
    <button type="button" aria-pressed="false" title="Underline the words that differ">Differences</button>
    <span class="tally"></span>
    <div class="quiz" role="group" aria-labelledby="quiz-question" hidden>
      <span id="quiz-question">Which one is the mix?</span>
      <button type="button">A</button><button type="button">B</button>
    </div>
    <span class="verdict" role="status"></span>
  </div>
  <div class="panes">
"""
    + _PANE.format(key="base", title="Base", what="every slider at rest")
    + _PANE.format(key="mix", title="Mix", what="")
    + """
  </div>
  <div class="sr-only" role="status"></div>
</div>
"""
)

STATUS = '<div class="status-line" aria-label="Figures of the last run"><span>ready</span></div>'


def stage_component(state: PageState, title: str = "", tie: str = "sliders") -> gr.HTML:
    """The two panes. Their value is a frame; before the first one they show what a new page would write by.

    Args:
        state: of the new page. title, tie: of its formula, as in `Recipe`.
    """
    return gr.HTML(
        value=Frame().json(),  # pyright: ignore[reportArgumentType]  (any JSON value is passed on)
        html_template=_TEMPLATE,
        js_on_load=script("twin.js", "stage.js"),
        apply_default_css=False,
        elem_id="stage",
        opening={**state.json(), "tie": tie, "title": title},
    )
