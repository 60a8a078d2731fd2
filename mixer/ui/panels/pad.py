"""The pad: a square on which one thumb steers two attributes at once, and a radar of all attributes.

It works in the browser alone: it moves the deck's sliders, and its dots are the texts of the history. Style and
behavior are in assets/web/pad.css, pad.js, dots.js and radar.js.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradio as gr

from mixer.ui.state.controls import LIMIT, STEP
from mixer.ui.web import script

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.ui.live.browsers import BrowserSessions

_TEMPLATE = """
<div class="pad-panel">
  <div class="pad" role="group" aria-label="Pad for two attributes">
    <span class="pole up" aria-hidden="true"></span>
    <span class="pole left" aria-hidden="true"></span>
    <div class="square">
      <svg viewBox="-1.5 -1.5 3 3" aria-hidden="true"></svg>
      <div class="dots" role="toolbar" aria-label="The last texts"></div>
      <i class="got" aria-hidden="true" hidden></i>
      <input type="range" class="sr-only"><input type="range" class="sr-only">
      <i class="thumb" aria-hidden="true"></i>
    </div>
    <span class="pole right" aria-hidden="true"></span>
    <span class="pole down" aria-hidden="true"></span>
  </div>
  <div class="axes">
    <label>Across <select></select></label>
    <p class="reading"></p>
    <label>Upward <select></select></label>
    <p class="reading"></p>
    <p class="hint">Drag, or press the arrow keys, with Shift for bigger steps; a double click or Home brings both to
      rest. The rim lies beyond the anchors.</p>
    <p class="hint">Dots are the last texts, each with a line to where it was measured: press one to bring it back.</p>
  </div>
  <figure class="radar" hidden>
    <svg viewBox="-150 -112 300 224" aria-hidden="true"></svg>
    <table class="sr-only"><caption>Asked and measured</caption>
      <thead><tr><th scope="col">Attribute</th><th scope="col">Asked</th><th scope="col">Measured</th></tr></thead>
      <tbody></tbody></table>
    <figcaption aria-hidden="true"><span class="asked">asked</span><span class="measured">measured</span></figcaption>
  </figure>
  <p class="empty" hidden>The pad needs two attributes with anchors.</p>
</div>
"""


def panel(desk: Desk, browsers: BrowserSessions) -> None:
    """The pad and the radar in their tab."""
    attributes = desk.vocabulary.attributes.values()
    gr.HTML(
        html_template=_TEMPLATE,
        js_on_load=script("radar.js", "dots.js", "pad.js"),
        apply_default_css=False,
        elem_id="pad-panel",
        controls=[{"name": a.name, "negative": a.labels[0], "positive": a.labels[1]} for a in attributes],
        limit=LIMIT,
        step=STEP,
    )
