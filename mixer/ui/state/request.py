"""A state of the page as the request that Generate would make of it. Knows neither Gradio nor who asks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mixer.ui.state.controls import fewest_tokens, options
from mixer.ui.state.decouple import mix_of
from mixer.ui.state.formula_text import Recipe, recipe

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.ui.state.page_state import PageState
    from mixer.values.request import Request


def request(desk: Desk, state: PageState) -> tuple[Request, Recipe]:
    """What to write, and what the formula has to do with the sliders; a seed that the state leaves open is drawn.

    Raises:
        FormulaError: the formula cannot be read, or names what is not loaded. Unsupported: see `decouple.places`.
    """
    from mixer.values.request import Request

    found = recipe(desk.formula(state.formula).bound, desk.vocabulary)
    mix = mix_of(desk, state) if found.positions is None else desk.mix(found.positions)
    params = options(state.tokens, state.temperature, None if state.fresh else state.seed)
    params = replace(params, min_new_tokens=fewest_tokens(params.max_new_tokens))
    return Request(state.prompt, mix, params, found.formula, state.steers), found
