"""Takes on a ZeroGPU Space, where only processes that `spaces` forks have a GPU.

`spaces` forks a process for each take, hands the arguments to it and brings the frames back. Moves and stops go through
a `SharedSlots`. The forked process runs `stream.run` on the desk that it inherits. The server's process must not use
the model for anything. Elsewhere this file is not used.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import InvalidValue, MixerError
from mixer.ui.controls.stage import Frame
from mixer.ui.live import stream
from mixer.ui.live.browsers import BrowserSession
from mixer.ui.live.shared_slots import SLOTS, Address, SharedSlots
from mixer.ui.state.controls import DeckValue
from mixer.ui.state.decouple import mix_of
from mixer.ui.state.formula_text import Recipe
from mixer.values.chat import Prompt
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.desk import Desk

READ_EVERY = 0.005  # seconds between two readings of a slot
STARTS_IN = 10  # seconds that a take may need besides its tokens
SLOWEST = 25  # tokens a second; a GPU is asked for as many seconds as this speed needs
LONGEST = 120  # seconds; more are refused to visitors

Frames = Generator[Frame, None, None]
Decorator = Callable[[Callable[..., Frames]], Callable[..., Frames]]


def is_zero_gpu() -> bool:
    """Whether this is a ZeroGPU Space."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def gpu_decorator() -> Decorator:
    """What makes a generator run in a process with a GPU; `spaces` must have been imported before torch."""
    import spaces  # pyright: ignore[reportMissingImports]  (a Space has it)

    return spaces.GPU(duration=gpu_seconds)


def gpu_seconds(
    address: Address, prompt: Prompt, mode: Any, params: SamplingParams, rate: float, recipe: Recipe
) -> int:
    speed = min(rate or SLOWEST, SLOWEST)
    return min(LONGEST, STARTS_IN + round(params.max_new_tokens / speed))


class ZeroGpu:
    """Writes the takes of a desk in other processes.

    Args:
        decorate: makes a generator that runs the given one in a forked process.
    """

    def __init__(self, desk: Desk, decorate: Decorator, slots: int = SLOTS) -> None:
        self._desk = desk
        self.slots = SharedSlots(desk.attributes, desk.rewards, slots)
        self._forked = decorate(self._write)

    def run(
        self,
        browser: BrowserSession,
        prompt: Prompt,
        value: DeckValue,
        mode: Any,
        params: SamplingParams,
        rate: float = 0.0,
        recipe: Recipe | None = None,
    ) -> Frames:
        """The frames of one take, as `stream.run` has them. Closing the generator ends the take."""
        recipe = replace(recipe or Recipe(), positions=None, compiled=None)  # the sliders have the positions
        try:
            take = self.slots.open()
        except MixerError as error:
            yield Frame(state="error", prompt=str(prompt), error=str(error))
            return
        try:
            newer = browser.begin(take, value, mix_of(self._desk, value))
            if newer is not None:
                browser.follow(take, newer, mix_of(self._desk, newer))
            frames = self._forked(take.address, prompt, mode, params, rate, recipe)
            with closing(frames):
                try:
                    for frame in frames:  # noqa: UP028  (`yield from` would close them before the take ends)
                        yield frame
                finally:
                    browser.end(take)  # before the generator is closed, which waits for the other process
        except MixerError as error:
            yield Frame(state="error", prompt=str(prompt), error=str(error))
        except gr.Error as error:  # there was no GPU, or it was taken away
            yield Frame(state="error", prompt=str(prompt), error=str(error.message))
        finally:
            browser.end(take)

    def text(self, prompt: Prompt, value: DeckValue, params: SamplingParams, formula: str | None) -> str:
        """One text, as programs ask for it.

        Raises:
            MixerError: see `Desk.generate`; or there was no GPU.
        """
        if formula is not None:
            self._desk.formula(formula)  # an error in it needs no GPU
        *_, last = self.run(BrowserSession(), prompt, value, "keep", params, recipe=Recipe(formula))
        if last.state != "done":
            raise InvalidValue(last.error or "The text was not finished.", "")
        return "".join(part for _, part in last.mix)

    def _write(
        self, address: Address, prompt: Prompt, mode: Any, params: SamplingParams, rate: float, recipe: Recipe
    ) -> Frames:
        """Runs in the forked process."""
        browser, done = BrowserSession(), threading.Event()
        while (state := self.slots.read(address)) is None:
            done.wait(READ_EVERY)
        watch = threading.Thread(target=self._watch, args=(address, browser, done), daemon=True)
        watch.start()
        try:
            with closing(stream.run(self._desk, browser, prompt, state.value, mode, params, rate, recipe)) as frames:  # pyright: ignore[reportArgumentType]
                yield from frames
        finally:
            done.set()
            watch.join()

    def _watch(self, address: Address, browser: BrowserSession, done: threading.Event) -> None:
        """Applies the moves and stops of the slot until `done` is set."""
        while not done.wait(READ_EVERY):
            state = self.slots.read(address)
            if state is not None and state.stopped:
                browser.stop()  # repeated, since the take may not have begun yet
            elif state is not None and state.value.seq > browser.value.seq:
                browser.steer(state.value, mix_of(self._desk, state.value))
