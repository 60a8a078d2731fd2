"""The tools in the page's head: presets, undo and redo, history, and the state of the page as a link and as code.

One component; its behavior is in assets/web/tools.js and history.js, and everything that it keeps stays in the browser.
It receives the values of all controls (`TELL`) and can put all controls into a state (`PUT`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import MixerError
from mixer.ui.state import snippets
from mixer.ui.state.decouple import LEFT_OUT, calibration, without_decouple
from mixer.ui.state.link import read_query, write_query
from mixer.ui.state.page_state import DECK, PENALTIES, PageState, read_state
from mixer.ui.state.presets import Choice
from mixer.ui.state.snippets import SHIPPED, DeskSource
from mixer.ui.web import script

if TYPE_CHECKING:
    from mixer.desk import Desk

LONGEST_LINK = 16_000  # characters; servers and mail programs cut longer links off
# The fields of the state whose controls are Gradio's own, in the order in which the page lists them.
PLAIN = ("prompt", "reply", "system", "mode", "temperature", "tokens", "seed", "rate", "fresh", *PENALTIES)
# Both run in the browser alone.
PUT = f"(state) => {list(PLAIN)}.map((name) => state[name])"
TELL = '(...values) => void document.dispatchEvent(new CustomEvent("desk:values", {detail: values}))'

PRESET = ("prompt", "formula", "positions", "rewards", "levels", "decouple")  # the fields that a preset sets

NOTICES = """
<div class="notices">
  <div class="notice-line hint" hidden>
    <p>New here? Press Generate, then drag a slider while the text is being written.</p>
    <button type="button" aria-label="Dismiss this hint">×</button>
  </div>
  <div class="notice-line warning" role="alert" hidden>
    <ul></ul>
    <button type="button" aria-label="Dismiss these notes">×</button>
  </div>
</div>
"""

_ICON = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="{}"/></svg>'
_UNDO = _ICON.format("M6 3 3 6l3 3M3.5 6H9.5a3.5 3.5 0 0 1 0 7H6")
_REDO = _ICON.format("m10 3 3 3-3 3M12.5 6H6.5a3.5 3.5 0 0 0 0 7H10")
_TEMPLATE = f"""
<div class="tools" role="group" aria-label="Tools">
  <select class="presets" aria-label="Presets"><option value="">Presets…</option></select>
  <button type="button" class="undo" aria-label="Undo" title="Undo (Ctrl+Z)" aria-keyshortcuts="Control+Z"
    disabled>{_UNDO}</button>
  <button type="button" class="redo" aria-label="Redo" title="Redo (Ctrl+Shift+Z)" aria-keyshortcuts="Control+Shift+Z"
    disabled>{_REDO}</button>
  <button type="button" class="history" popovertarget="history-sheet"
    title="Texts written in this browser">History</button>
  <button type="button" class="share"
    title="This very state as a link, in Python, for curl and the command line">Share</button>
  <section class="sheet" id="history-sheet" popover aria-label="History">
    <header><h2>History</h2><button type="button" class="clear">Clear</button></header>
    <p class="empty">The last twenty texts are kept here, in this browser alone.</p>
    <ol></ol>
  </section>
  <section class="sheet" id="share-sheet" popover aria-label="Share">
    <header><h2>Share this state</h2><span role="status"></span></header>
    <p class="empty" hidden></p>
    <dl></dl>
  </section>
</div>
"""


def tools_component(desk: Desk, known: Sequence[Choice], state: PageState, origin: DeskSource) -> gr.HTML:
    """The tools of a page that opens with `state`; their value is a state that the other controls take over."""
    return gr.HTML(
        value=state.json(),  # pyright: ignore[reportArgumentType]  (any JSON value is passed on)
        html_template=_TEMPLATE,
        js_on_load=script("history.js", "tools.js"),
        apply_default_css=False,
        elem_id="tools",
        server_functions=[visit(desk), tell(desk, origin)],
        presets=[{"name": one.name, "about": one.about, "state": _preset(one.state)} for one in known],
        start=state.json(),
        rest=PageState().json(),
        deck=DECK,
        plain=PLAIN,
    )


def _preset(state: PageState) -> dict[str, Any]:
    """What a preset sets; the rest of the page stays as it is."""
    return {name: value for name, value in state.json().items() if name in PRESET}


def visit(desk: Desk) -> Callable[[Any], dict[str, Any] | None]:
    def visit(query: Any) -> dict[str, Any] | None:
        """The state in the query of the page's address, and a note for each part that was left out."""
        answer = read_query(query, desk.attributes, desk.rewards) if isinstance(query, str) else None
        if answer is None:
            return None
        state, notes = answer
        if state.decouple and calibration(desk) is None:
            state, notes = replace(state, decouple=False), [*notes, LEFT_OUT]
        return {"state": state.json(), "notes": notes}

    return visit


def tell(desk: Desk, origin: DeskSource = SHIPPED) -> Callable[[Any], dict[str, str]]:
    def tell(posted: Any) -> dict[str, str]:
        """A state as a link and as code, for the page at the posted address."""
        try:
            state = read_state(posted, desk.attributes, desk.rewards)
            plain = without_decouple(desk, state)
        except MixerError as error:
            return {"refused": str(error)}
        address = posted.get("address")
        address = address if isinstance(address, str) else ""
        link = f"{address}?{write_query(state)}"
        told = {"Link": link} if len(link) <= LONGEST_LINK else {"note": "The prompt is too long for a link."}
        return told | {
            "Python": snippets.python(plain, origin),
            "Command line": snippets.shell(plain, origin),
            "curl": snippets.curl(plain, address),
        }

    return tell
