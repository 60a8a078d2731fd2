"""The paint: the last text, every token colored by how much more or less likely a slider made it.

The server keeps nothing: the last frame of a text says what it was written under (see `state.segments`), and the
browser sends that back to be painted. Style and behavior are in assets/web/paint.css and paint.js.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import InvalidValue
from mixer.ui.live.pace import Pace
from mixer.ui.panels.job import FRAMES, wire
from mixer.ui.state.segments import read_written
from mixer.ui.web import script
from mixer.values.chat import Conversation

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.tasks.effects import Effects
    from mixer.ui.live.browsers import BrowserSessions

FULL = 2.0  # nats; larger effects have the same color
AT_ONCE = 2

_TEMPLATE = """
<section class="paint" aria-label="Text painted by effect">
  <div class="paint-head">
    <span class="legend" role="img" aria-label="Violet was made less likely, teal more likely"></span>
    <span class="readout" role="status"></span>
    <button type="button" class="go" hidden>Cancel</button>
    <button type="button" class="as-table" aria-pressed="false" disabled>Table</button>
  </div>
  <p class="alert" role="alert" hidden></p>
  <p class="hint">When a text has ended, every token of it is colored here by what a slider had to do with it: teal
    where the slider made it more likely, violet where less.</p>
  <p class="veil">Hidden until the blind test is answered.</p>
  <div class="paint-body" hidden>
    <fieldset class="by"><legend>Painted by</legend></fieldset>
    <div class="painting" dir="auto"><span class="lead"></span><span class="tokens" role="listbox" tabindex="0"
      aria-label="Tokens, painted"></span></div>
    <div class="effects sr-only" role="region" aria-label="Effects as a table" tabindex="-1"><table>
      <caption>Effect on each token in nats</caption>
      <thead></thead><tbody></tbody><tfoot></tfoot>
    </table></div>
  </div>
</section>
"""


def run(desk: Desk, posted: object, flag: threading.Event) -> Iterator[dict[str, Any]]:
    """Frames of one painting, until it is done or the flag is set: `{state, share}`, and at last `painting`'s result.

    Args:
        posted: what a client sent: `{"prompt": str, "written": see `read_written`}`.

    Raises:
        MixerError: it is not as the page sends it, or cannot be replayed.
    """
    from mixer.tasks.effects import EffectReplays

    prompt = posted.get("prompt") if isinstance(posted, Mapping) else None
    if not isinstance(posted, Mapping) or not isinstance(prompt, str):
        raise InvalidValue("The text has no prompt.", "Send {prompt, written}.")
    written = posted.get("written")
    segments, params, formula = read_written(written, desk)
    messages = written.get("messages") if isinstance(written, Mapping) else None
    asked = prompt.encode("utf-8", "replace").decode() if messages is None else Conversation.of(messages)
    replays = EffectReplays(desk, asked, segments, params, formula)
    pace = Pace(FRAMES)
    with closing(replays.run()) as shares:
        for share in shares:
            if flag.is_set():
                yield {"state": "stopped"}
                return
            if pace.due():
                yield {"state": "running", "share": round(share, 3)}
    yield {"state": "done", **painting(replays.effects)}


def painting(found: Effects) -> dict[str, Any]:
    """Effects as the browser draws them: `cells`, each {text, logprob}, and `paints`, each {kind, name, values, total}.

    Tokens that form one character together are one cell, and their effects are added. A cell without text is the end of
    the text. None is an infinite effect: without the slider the token could not have come.
    """
    groups: list[list[int]] = [[]]
    for place, text in enumerate(found.texts):
        groups[-1].append(place)
        if text:
            groups.append([])
    groups = [group for group in groups if group]

    def added(values: Sequence[float]) -> list[float | None]:
        return [_finite(sum(values[place] for place in group)) for group in groups]

    paints = [("all", "", found.everything)]
    paints += [("position", name, values) for name, values in found.attributes.items()]
    paints += [("reward", name, values) for name, values in found.rewards.items()]
    texts = ["".join(found.texts[place] for place in group) for group in groups]
    return {
        "cells": [{"text": text, "logprob": x} for text, x in zip(texts, added(found.logprobs), strict=True)],
        "paints": [
            {"kind": kind, "name": name, "values": added(values), "total": _finite(sum(values))}
            for kind, name, values in paints
        ],
    }


def _finite(nats: float) -> float | None:
    """Rounded to four decimals; None if it is infinite, which JSON cannot hold."""
    return round(nats, 4) + 0.0 if math.isfinite(nats) else None


def panel(desk: Desk, browsers: BrowserSessions) -> None:
    """The painting in its tab."""
    box = gr.HTML(
        html_template=_TEMPLATE,
        js_on_load=script("paint.js"),
        apply_default_css=False,
        elem_id="paint-panel",
        full=FULL,
    )
    wire(box, browsers, "paint", lambda posted, flag: run(desk, posted, flag), AT_ONCE)
