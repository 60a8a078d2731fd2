"""From a press of Generate to frames for the stage: base and mix are two rows of one batch, with one seed.

A slider that moves does not come through here: its handler changes the running take (see `browsers`), and this loop
goes on. Uses public names of the desk; knows no tensor and no component.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from mixer.errors import FormulaError, MixerError
from mixer.ui.controls.stage import Frame
from mixer.ui.live.browsers import BrowserSession, Take
from mixer.ui.live.pace import Pace, Tempo
from mixer.ui.state.controls import DeckValue
from mixer.ui.state.decouple import mix_of
from mixer.ui.state.formula_text import Recipe, place
from mixer.ui.state.segments import write_written
from mixer.values.chat import Conversation, Prompt
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.decoding.steps import Step
    from mixer.desk import Desk

SCORE_EVERY = 0.35  # seconds between two measurements of the growing text
SCORE_SHARE = 0.05  # largest share of the time that measuring takes
FAULT = "Something went wrong inside the desk; the server's log has the details."
MEASURABLE = 12  # fewest characters that a judge can score

log = logging.getLogger(__name__)


def run(
    desk: Desk,
    browser: BrowserSession,
    prompt: Prompt,
    value: DeckValue,
    mode: Literal["keep", "refill", "restart"],
    params: SamplingParams,
    rate: float = 0.0,
    recipe: Recipe | None = None,
) -> Iterator[Frame]:
    """Frames of one take: about 15 a second, up to 30 while a slider moves, and always the last one.

    At most `rate` tokens a second are written, so that there is time to steer; 0 is no limit. Closing the generator
    gives the rows back. Bad input and faults end in a frame with state "error"; nothing is raised.
    """
    recipe = recipe or Recipe()
    frame = Frame(
        state="running", prompt=str(prompt), seq=value.seq, status={"seed": params.seed}, formula=recipe.title
    )
    frame.reply = isinstance(prompt, Conversation)
    take: Take | None = None
    try:
        take = _begin(desk, browser, prompt, value, mode, params, recipe)
        yield frame
        yield from _write(desk, take, frame, Tempo(rate), recipe.formula)
    except MixerError as error:
        frame.state, frame.error = "error", str(error)
        frame.fault = place(error, recipe.formula or "") if isinstance(error, FormulaError) else None
        yield frame
    except Exception:
        log.exception("A take ended with a fault.")
        frame.state, frame.error = "error", FAULT
        yield frame
    finally:
        if take is not None:
            browser.end(take)


def _begin(
    desk: Desk,
    browser: BrowserSession,
    prompt: Prompt,
    value: DeckValue,
    mode: Any,
    params: SamplingParams,
    recipe: Recipe,
) -> Take:
    mix = mix_of(desk, value)
    formula = recipe.compiled or recipe.formula
    steered = desk.session(prompt, mix=mix, params=params, on_mix_change=mode, formula=formula, steering=value.steering)
    take = Take(base=desk.session(prompt, params=params), mix=steered, follows=recipe.tie != "none")
    newer = browser.begin(take, value, mix)
    if newer is not None:
        browser.follow(take, newer, mix_of(desk, newer))
    return take


def _write(desk: Desk, take: Take, frame: Frame, tempo: Tempo, formula: str | None) -> Iterator[Frame]:
    pace = Pace()
    measure = TextMeter(desk.scores)
    urgent = True  # the first token is shown at once, and so is the first one after a slider moved
    for _, step in desk.lockstep(take.base, take.mix):
        if step is not None:
            urgent = _append(frame, take, step) or urgent
        if take.stopped:
            break
        if pace.due(urgent):
            urgent = False
            _update(frame, take)
            frame.scores = measure(take.mix.text) or frame.scores
            yield frame
        tempo.hold(take.nudge)
    frame.state = "stopped" if take.stopped else "done"
    _update(frame, take)
    frame.scores = measure(take.mix.text, now=True) or frame.scores
    frame.written = write_written(take.mix, formula)
    yield frame


def _append(frame: Frame, take: Take, step: Step) -> bool:
    """Adds a step's text to the frame, or removes what a banned word takes back.

    Returns:
        Whether the step is the first one under a new move of the deck.
    """
    seq, label = take.move(step) or (frame.seq, frame.mix[-1][0] if frame.mix else "")
    moved, frame.seq = seq != frame.seq, seq
    take.nats.append(step.nats)
    frame.levels = {name: round(level, 4) for name, level in step.levels.items()}
    if step.index == 0:
        frame.mix = []
    frame.mix = shortened(frame.mix, step.rewind)
    if not frame.mix or frame.mix[-1][0] != label:
        frame.mix.append((label, step.text))
    else:
        frame.mix[-1] = (label, frame.mix[-1][1] + step.text)
    return moved


def _update(frame: Frame, take: Take) -> None:
    """Updates everything in the frame but the steered text and its scores."""
    frame.base = take.base.text
    frame.status = figures(take, frame.status["seed"])
    steering = take.mix.applied_steering
    counted = bool(steering.heads) or steering.budget is not None
    frame.nats = round(fmean(take.nats), 4) if take.nats and counted else None
    frame.note = take.refused


def shortened(pieces: list[tuple[str, str]], characters: int) -> list[tuple[str, str]]:
    """The text without so many characters at its end."""
    pieces = list(pieces)
    while characters and pieces:
        label, text = pieces.pop()
        if characters < len(text):
            pieces.append((label, text[: len(text) - characters]))
        characters = max(0, characters - len(text))
    return pieces


def figures(take: Take, seed: int | None) -> dict[str, Any]:
    """The figures of the status line."""
    stats = take.mix.stats
    return {
        "apply_us": stats.apply_us,
        "first_token_ms": stats.first_token_ms,
        "tokens_per_second": stats.tokens_per_second,
        "tokens": stats.tokens,
        "exact": stats.exact,
        "acceptance": stats.acceptance,
        "finish": take.mix.finish_reason,
        "seed": seed,
    }


class TextMeter:
    """The judges' scores of a growing text, not more often than measuring is cheap."""

    def __init__(self, scores: Callable[[str], Mapping[str, float]]) -> None:
        self._scores = scores
        self._next = time.monotonic() + SCORE_EVERY

    def __call__(self, text: str, now: bool = False) -> dict[str, float]:
        """Attribute -> score in [0, 1]; empty if it is too early to measure again, or the text is too short."""
        started = time.monotonic()
        if (started < self._next and not now) or len(text.strip()) < MEASURABLE:
            return {}
        scores = dict(self._scores(text))
        ended = time.monotonic()
        self._next = ended + max(SCORE_EVERY, (ended - started) / SCORE_SHARE)
        return scores
