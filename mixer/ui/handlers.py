"""What the page calls when a person generates, moves a slider, stops or leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import FormulaError, MixerError
from mixer.ui.controls.stage import Frame
from mixer.ui.live.browsers import BrowserSessions
from mixer.ui.state.controls import read_box, read_prompt, read_value
from mixer.ui.state.decouple import mix_of
from mixer.ui.state.formula_text import place
from mixer.ui.state.page_state import PENALTIES
from mixer.ui.state.request import sampling, with_formula
from mixer.values.request import FIELDS

if TYPE_CHECKING:
    from mixer.desk import Desk


def generate(
    desk: Desk, browsers: BrowserSessions, write: Callable[..., Iterator[Frame]]
) -> Callable[..., Iterator[tuple[Any, Any]]]:
    """The handler of Generate: frames for the stage, and the seed for its box. `write` is `stream.run` or its like."""

    def take(
        deck: Any,
        box: Any,
        prompt: Any,
        reply: Any,
        system: Any,
        mode: Any,
        temperature: Any,
        tokens: Any,
        seed: Any,
        rate: Any,
        fresh: Any,
        repetition: Any,
        presence: Any,
        frequency: Any,
        dry: Any,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any]]:
        try:
            formula = read_box(box)
            value = read_value(deck, desk.attributes, desk.rewards)
            value, found = with_formula(desk, formula.text, value, formula.typed)
            penalties: dict[str, Any] = dict(zip(PENALTIES, (repetition, presence, frequency, dry), strict=True))
            asked = read_prompt(prompt or "", reply, system or "")
            params = sampling(tokens, temperature, seed, fresh, penalties, not isinstance(asked, str))
            speed = FIELDS["rate"].check(rate, True)
        except MixerError as error:
            fault = place(error, read_box(box).text) if isinstance(error, FormulaError) else None
            yield Frame(state="error", error=str(error), fault=fault).json(), gr.skip()
            return
        shown: Any = params.seed
        for frame in write(browsers.open(str(request.session_hash)), asked, value, mode, params, speed, found):
            yield frame.json(), shown
            shown = gr.skip()  # once is enough
        # Gradio sends the last value twice. Before the second time a text of the history may have come to the stage.
        yield gr.skip(), gr.skip()

    return take


def steer(desk: Desk, browsers: BrowserSessions) -> Callable[..., None]:
    """The handler of the deck: moves the running take of the browser session."""

    def steer(deck: Any, request: gr.Request) -> None:
        try:
            value = read_value(deck, desk.attributes, desk.rewards)
            browsers.open(str(request.session_hash)).steer(value, mix_of(desk, value))
        except MixerError as error:  # the page itself never sends such a value
            raise gr.Error(str(error), print_exception=False) from error

    return steer


def stop(browsers: BrowserSessions) -> Callable[..., None]:
    """The handler of Stop."""

    def stop(request: gr.Request) -> None:
        browser = browsers.find(str(request.session_hash))
        if browser is not None:
            browser.stop()

    return stop


def unload(browsers: BrowserSessions) -> Callable[..., None]:
    """The handler of a browser that leaves the page."""

    def unload(request: gr.Request) -> None:
        browsers.drop(str(request.session_hash))

    return unload
