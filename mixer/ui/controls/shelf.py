"""The shelf: tabs below the stage, one for each panel; at most one panel is open. Does not know what is in a panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import gradio as gr

from mixer.ui.web import script

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.ui.live.browsers import BrowserSessions

Panel = Callable[["Desk", "BrowserSessions"], None]

_TAB = (
    '<button type="button" role="tab" id="tab-{name}" aria-controls="shelf-{name}" data-panel="{name}">{title}</button>'
)
_TEMPLATE = '<div class="tabs" role="tablist" aria-label="More tools">{tabs}</div>'


def shelf(desk: Desk, browsers: BrowserSessions, panels: Mapping[str, Panel]) -> None:
    """A tab for each panel. `panels` are by title; the panel with the title `Paint` is the element `shelf-paint`."""
    names = {title: title.lower() for title in panels}
    tabs = "".join(_TAB.format(name=name, title=title) for title, name in names.items())
    with gr.Column(elem_id="shelf"):
        gr.HTML(
            html_template=_TEMPLATE.format(tabs=tabs),
            js_on_load=script("shelf.js"),
            apply_default_css=False,
            elem_id="shelf-tabs",
        )
        for title, panel in panels.items():
            with gr.Column(elem_id=f"shelf-{names[title]}"):
                panel(desk, browsers)
