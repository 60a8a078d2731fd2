"""Takes written on a ZeroGPU Space, where only processes forked for the purpose have a GPU.

`spaces` forks them, hands orders over and brings frames back; moves and stops travel through a `SharedSlots`. The other
process runs `stream.run` as it is, on the desk that it inherits. Nothing may be computed with the model in this one,
and nothing compiled by torch. Elsewhere this file is not used.
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
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.desk import Desk

LOOK_EVERY = 0.005  # seconds between two looks at the board
STARTS_IN = 10  # seconds that a take may need besides its tokens
SLOWEST = 25  # tokens a second that a GPU is asked for by
LONGEST = 120  # seconds; more are refused to visitors

Frames = Generator[Frame, None, None]
Decorator = Callable[[Callable[..., Frames]], Callable[..., Frames]]


def wanted() -> bool:
    """Whether this is a ZeroGPU Space."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def gpu() -> Decorator:
    """What makes a generator run in a process that has a GPU; `spaces` was to be imported before torch."""
    import spaces  # pyright: ignore[reportMissingImports]  (a Space has it)

    return spaces.GPU(duration=_seconds)


def _seconds(address: Address, prompt: str, mode: Any, params: SamplingParams, rate: float, recipe: Recipe) -> int:
    speed = min(rate or SLOWEST, SLOWEST)
    return min(LONGEST, STARTS_IN + round(params.max_new_tokens / speed))


class ZeroGpu:
    """Writes the takes of a desk in other processes.

    Args:
        decorate: makes a generator that forks, and runs the given one there.
    """

    def __init__(self, desk: Desk, decorate: Decorator, slots: int = SLOTS) -> None:
        self._desk = desk
        self.board = SharedSlots(desk.attributes, desk.rewards, slots)
        self._away = decorate(self._write)

    def run(
        self,
        live: BrowserSession,
        prompt: str,
        value: DeckValue,
        mode: Any,
        params: SamplingParams,
        rate: float = 0.0,
        recipe: Recipe | None = None,
    ) -> Frames:
        """The frames of one take, as `stream.run` has them. Closing the generator ends the take."""
        recipe = replace(recipe or Recipe(), positions=None)  # the sliders say them
        try:
            line = self.board.open()
        except MixerError as error:
            yield Frame(state="error", prompt=prompt, error=str(error))
            return
        try:
            newer = live.begin(line, value, mix_of(self._desk, value))
            if newer is not None:
                live.follow(line, newer, mix_of(self._desk, newer))
            frames = self._away(line.address, prompt, mode, params, rate, recipe)
            with closing(frames):
                try:
                    for frame in frames:  # noqa: UP028  (`yield from` would close them before the line)
                        yield frame
                finally:
                    live.end(line)  # before the generator is closed, which waits for the other process
        except MixerError as error:
            yield Frame(state="error", prompt=prompt, error=str(error))
        except gr.Error as error:  # there was no GPU, or it was taken away
            yield Frame(state="error", prompt=prompt, error=str(error.message))
        finally:
            live.end(line)

    def text(self, prompt: str, value: DeckValue, params: SamplingParams, formula: str | None) -> str:
        """One text, as programs ask for it.

        Raises:
            MixerError: see `Desk.generate`; or there was no GPU.
        """
        if formula is not None:
            self._desk.formula(formula)  # what is wrong is said before a GPU is asked for
        *_, last = self.run(BrowserSession(), prompt, value, "keep", params, recipe=Recipe(formula))
        if last.state != "done":
            raise InvalidValue(last.error or "The text was not finished.", "")
        return "".join(part for _, part in last.mix)

    def _write(
        self, address: Address, prompt: str, mode: Any, params: SamplingParams, rate: float, recipe: Recipe
    ) -> Frames:
        """Runs in the other process."""
        live, done = BrowserSession(), threading.Event()
        while (news := self.board.read(address)) is None:
            done.wait(LOOK_EVERY)
        watch = threading.Thread(target=self._watch, args=(address, live, done), daemon=True)
        watch.start()
        try:
            with closing(stream.run(self._desk, live, prompt, news.value, mode, params, rate, recipe)) as frames:  # pyright: ignore[reportArgumentType]
                yield from frames
        finally:
            done.set()
            watch.join()

    def _watch(self, address: Address, live: BrowserSession, done: threading.Event) -> None:
        """Takes moves over from the board until the take is done."""
        while not done.wait(LOOK_EVERY):
            news = self.board.read(address)
            if news is not None and news.stopped:
                live.stop()  # again and again: the take may not have begun
            elif news is not None and news.value.seq > live.value.seq:
                live.steer(news.value, mix_of(self._desk, news.value))
