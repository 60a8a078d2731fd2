"""The mix deck: one component holding every slider.

Its looks and its behavior under the hand are in assets/deck.css and assets/deck.js; what its value means is in `value`.
One component for all sliders, because Gradio's own slider never reports a keyboard's last value and fills from its end.
"""

from __future__ import annotations

from collections.abc import Iterable

import gradio as gr

from mixer.mix import Attribute
from mixer.ui.assets import script
from mixer.ui.value import LIMIT, STEP


def component(attributes: Iterable[Attribute]) -> gr.HTML:
    """The deck for any number of attributes."""
    controls = [
        {"name": a.name, "negative": a.labels[0], "positive": a.labels[1], "description": a.description}
        for a in attributes
    ]
    return gr.HTML(
        value={"seq": 0, "positions": {}},  # pyright: ignore[reportArgumentType]  (any JSON value is passed on)
        html_template='<div class="deck" role="group" aria-label="Mix"></div>',
        js_on_load=script("deck.js"),
        apply_default_css=False,
        elem_id="deck",
        controls=controls,
        limit=LIMIT,
        step=STEP,
    )
