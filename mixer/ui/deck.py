"""The mix deck: one component holding every slider, of anchors and of rewards, and the budget that rewards share.

Its looks and its behavior under the hand are in assets/deck.* and assets/reward.*; what its value means is in `value`.
One component for all sliders, because Gradio's own slider never reports a keyboard's last value and fills from its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr

from mixer.mix import Attribute
from mixer.steering import BUDGET
from mixer.ui.assets import script
from mixer.ui.value import LIMIT, STEP

BUDGETS = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)  # nats; after these, no limit


def component(attributes: Iterable[Attribute], heads: Sequence[str] = ()) -> gr.HTML:
    """The deck for any number of attributes and reward heads; a head without anchors has a card of its own."""
    controls: list[dict[str, Any]] = [
        {
            "name": a.name,
            "negative": a.labels[0],
            "positive": a.labels[1],
            "description": a.description,
            "anchors": True,
            "reward": a.name in heads,
        }
        for a in attributes
    ]
    known = {control["name"] for control in controls}
    controls += [
        {"name": name, "negative": "less", "positive": "more", "description": "", "anchors": False, "reward": True}
        for name in heads
        if name not in known
    ]
    return gr.HTML(
        value={"seq": 0, "positions": {}},  # pyright: ignore[reportArgumentType]  (any JSON value is passed on)
        html_template='<div class="deck" role="group" aria-label="Mix"></div>',
        js_on_load=script("reward.js", "deck.js"),
        apply_default_css=False,
        elem_id="deck",
        controls=controls,
        limit=LIMIT,
        step=STEP,
        budgets=BUDGETS,
        budget=BUDGET,
    )
