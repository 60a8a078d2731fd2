"""The mix deck: one component holding every slider, of anchors and of rewards, and the budget that rewards share.

Style and behavior are in assets/web/deck.*, reward.* and decouple.js; what its value means is in `state.controls`. All
sliders are one component because Gradio's own slider never reports the last value from a keyboard, and cannot be filled
from its middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from mixer.formula.bind import Vocabulary
from mixer.ui.state.controls import LIMIT, REWARD_LIMIT, STEP
from mixer.ui.state.page_state import PageState
from mixer.ui.web import script
from mixer.values.request import FIELDS

BUDGETS = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)  # nats; after these, no limit


def deck_component(
    vocabulary: Vocabulary, state: PageState | None = None, scales: Mapping[str, Sequence[float]] | None = None
) -> gr.HTML:
    """The deck for any number of attributes and rewards; a reward without anchors has a card of its own.

    Args:
        scales: attribute -> the scores that a decoupled slider asks for at -1, 0 and 1; None if none can be decoupled.
    """
    state = state or PageState()
    rewards = vocabulary.rewards
    controls = [
        _control(a.name, a.labels, a.description, True, a.name in rewards) for a in vocabulary.attributes.values()
    ]
    for name in rewards:
        if name not in vocabulary.attributes:
            poles = {opinion.goal: label for label, opinion in vocabulary.labels.items() if opinion.judge == name}
            controls.append(_control(name, (poles.get(0.0, "less"), poles.get(1.0, "more")), "", False, True))
    return gr.HTML(
        value={"seq": 0, "positions": dict(state.positions), "decouple": state.decouple},  # pyright: ignore[reportArgumentType]  (any JSON value is passed on)
        html_template='<div class="deck" role="group" aria-label="Mix"></div>',
        js_on_load=script("reward.js", "decouple.js", "deck.js"),
        apply_default_css=False,
        elem_id="deck",
        controls=controls,
        limit=LIMIT,
        step=STEP,
        budgets=BUDGETS,
        budget=FIELDS["budget"].default,
        reward_limit=REWARD_LIMIT,
        scales=scales,
    )


def _control(name: str, labels: tuple[str, str], description: str, anchors: bool, reward: bool) -> dict[str, Any]:
    """One card: the names for its sliders, and which sliders it has."""
    return {
        "name": name,
        "negative": labels[0],
        "positive": labels[1],
        "description": description,
        "anchors": anchors,
        "reward": reward,
    }
