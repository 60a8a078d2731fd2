"""What the page calls when somebody generates, moves a slider, stops or leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import FormulaError, MixerError
from mixer.ui.controls.stage import Frame
from mixer.ui.live.browsers import BrowserSessions
from mixer.ui.state.controls import (
    FASTEST,
    BoxValue,
    DeckValue,
    fewest_tokens,
    options,
    read_box,
    read_text,
    read_value,
)
from mixer.ui.state.decouple import mix_of
from mixer.ui.state.formula_text import Recipe, place, recipe
from mixer.values.bounds import bounded

if TYPE_CHECKING:
    from mixer.desk import Desk


def generate(
    desk: Desk, registry: BrowserSessions, write: Callable[..., Iterator[Frame]]
) -> Callable[..., Iterator[tuple[Any, Any]]]:
    def take(
        deck: Any,
        box: Any,
        prompt: Any,
        mode: Any,
        temperature: Any,
        tokens: Any,
        seed: Any,
        rate: Any,
        fresh: Any,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any]]:
        try:
            value, found = chosen_recipe(desk, read_box(box), read_value(deck, desk.attributes, desk.rewards))
            params = options(tokens, temperature, None if fresh else seed)
            params = replace(params, min_new_tokens=fewest_tokens(params.max_new_tokens))
            speed = bounded("The speed", rate, 0, FASTEST)
            text = read_text("The prompt", prompt or "")
        except MixerError as error:
            fault = place(error, read_box(box).text) if isinstance(error, FormulaError) else None
            yield Frame(state="error", error=str(error), fault=fault).json(), gr.skip()
            return
        live = registry.live(str(request.session_hash))
        first: Any = params.seed
        for frame in write(live, text, value, mode, params, speed, found):
            yield frame.json(), first
            first = gr.skip()
        yield gr.skip(), gr.skip()  # Gradio sends the last value twice; by then a text of the history may stand there

    return take


def chosen_recipe(desk: Desk, box: BoxValue, value: DeckValue) -> tuple[DeckValue, Recipe]:
    """What to write by, and where the sliders stand for it: a weight mix just typed has not moved them yet."""
    found = recipe(desk.formula(box.text).bound, desk.vocabulary)
    if found.positions is not None:  # its numbers are positions
        value = replace(value, positions=found.positions if box.typed else value.positions, decouple=False)
    return value, found


def steer(desk: Desk, registry: BrowserSessions) -> Callable[..., None]:
    def steer(deck: Any, request: gr.Request) -> None:
        try:
            value = read_value(deck, desk.attributes, desk.rewards)
            registry.live(str(request.session_hash)).steer(value, mix_of(desk, value))
        except MixerError as error:  # the page itself never sends such a value
            raise gr.Error(str(error), print_exception=False) from error

    return steer


def stop(registry: BrowserSessions) -> Callable[..., None]:
    def stop(request: gr.Request) -> None:
        live = registry.find(str(request.session_hash))
        if live is not None:
            live.stop()

    return stop


def unload(registry: BrowserSessions) -> Callable[..., None]:
    def unload(request: gr.Request) -> None:
        registry.drop(str(request.session_hash))

    return unload
