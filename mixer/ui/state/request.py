"""What Generate writes for a state of the page. Knows neither Gradio nor the browser session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from mixer.ui.state.controls import DeckValue, options
from mixer.ui.state.decouple import mix_of
from mixer.ui.state.formula_text import Recipe, recipe
from mixer.ui.state.page_state import PageState
from mixer.values.request import Request

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.values.sampling import SamplingParams

Sliders = TypeVar("Sliders", DeckValue, PageState)


def request(desk: Desk, state: PageState) -> tuple[Request, Recipe]:
    """The request, and how the sliders act on its formula; a seed that the state leaves open is drawn.

    Raises:
        FormulaError: the formula cannot be read, or names what is not loaded. Unsupported: see `decouple.positions_of`.
    """
    state, found = with_formula(desk, state.formula, state)
    params = sampling(state.tokens, state.temperature, state.seed, state.fresh, state.penalties, state.reply)
    return Request(state.asked, mix_of(desk, state), params, found.formula, state.steers), found


def with_formula(desk: Desk, text: str, sliders: Sliders, typed: bool = True) -> tuple[Sliders, Recipe]:
    """The recipe of a formula, and the sliders as they stand under it: a weight mix sets their positions.

    Args:
        typed: whether the formula was written after the last slider moved. If not, the sliders keep their positions.

    Raises:
        FormulaError: the formula cannot be read, or names what is not loaded.
    """
    found = recipe(desk.formula(text), desk.vocabulary)
    if found.positions is not None:  # the numbers of a weight mix are positions, never levels of scores
        sliders = replace(sliders, positions=found.positions if typed else sliders.positions, decouple=False)
    return sliders, found


def sampling(
    tokens: object,
    temperature: object,
    seed: object,
    fresh: object,
    penalties: Mapping[str, object],
    reply: bool = False,
) -> SamplingParams:
    """Sampling parameters as a client sends them; with `fresh`, or a seed of None or -1, a seed is drawn.

    Raises:
        InvalidValue: one of them is no number or out of range.
    """
    params = options(tokens, temperature, None if fresh else seed, penalties)
    return replace(params, min_new_tokens=fewest_tokens(params.max_new_tokens, reply))


def fewest_tokens(tokens: int, reply: bool) -> int:
    """Fewest tokens of a text with at most `tokens`: a text that ends after a sentence leaves nothing to steer.

    A reply ends where the model ends it.
    """
    return 0 if reply else tokens // 2
