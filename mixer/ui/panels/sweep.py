"""The sweep: seven texts along one slider, everything else as on the page, and the curve of asked against measured.

The seven texts and the base's text have the same seed and are rows of one batch. A card's state is a state of the page
that writes the card's text. Style and behavior are in assets/web/sweep.css and sweep.js.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import InvalidValue, UnknownName
from mixer.ui.live.pace import Pace
from mixer.ui.panels.job import FRAMES, wire
from mixer.ui.state.controls import LIMIT, REWARD_LIMIT, describe
from mixer.ui.state.formula_text import rewrite
from mixer.ui.state.page_state import PageState, read_state
from mixer.ui.state.request import request
from mixer.ui.web import script
from mixer.values.bounds import bounded
from mixer.values.request import FIELDS

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.tasks.batch import BatchText
    from mixer.ui.live.browsers import BrowserSessions

STOPS = 7
TOKENS = 48
MOST_TOKENS = 200
LEAST_STEP = 0.01  # between two stops
LIMITS = {"position": LIMIT, "reward": REWARD_LIMIT}  # of the page's sliders
AT_ONCE = 4

_TEMPLATE = """
<section class="sweep" aria-label="Sweep along one slider">
  <div class="sweep-head">
    <label>Slider <select class="which"></select></label>
    <label>from <input type="number" class="low" step="0.05"></label>
    <label>to <input type="number" class="high" step="0.05"></label>
    <label>Tokens <input type="number" class="tokens" min="1" step="1"></label>
    <button type="button" class="run">Run</button>
    <button type="button" class="cancel" disabled>Cancel</button>
    <span class="said" role="status"></span>
    <button type="button" class="as-table" aria-pressed="false">Table</button>
    <button type="button" class="csv" disabled title="The seven texts as a file for spreadsheets">CSV</button>
  </div>
  <p class="alert" role="alert" hidden></p>
  <p class="hint">Seven texts with one seed, from one end of a slider to the other; all else is as on the page.
    The curve shows where the judge finds them. Press a card to put the slider there.</p>
  <div class="sweep-body" hidden>
    <figure class="curve"><svg viewBox="0 0 216 176" role="img"></svg></figure>
    <ol class="cards" aria-label="The seven texts"></ol>
    <div class="as-rows" tabindex="0" role="region" aria-label="The seven texts as a table" hidden><table>
      <caption></caption>
      <thead><tr><th scope="col">Asked</th><th scope="col">Measured</th><th scope="col">Text</th></tr></thead>
      <tbody></tbody>
    </table></div>
  </div>
</section>
"""


@dataclass(frozen=True)
class SweepQuestion:
    """What a client asks for.

    Attributes:
        part: `position` for an attribute's slider, `reward` for a reward head's slider.
        name: of the attribute or head.
        stops: the positions of that slider, in order.
        state: of the page for everything else, with the sweep's number of tokens.
    """

    part: str
    name: str
    stops: tuple[float, ...]
    state: PageState

    def at(self, desk: Desk, stop: float) -> PageState:
        """The page's state with the slider at `stop`; a formula that is a weight mix is rewritten."""
        state = self.state
        if self.part == "reward":
            return replace(state, steering=state.steering.with_position(self.name, stop))
        positions = {**state.positions, self.name: stop}
        moved = {name: positions[name] for name in desk.attributes if positions.get(name)}
        formula = rewrite(desk.formula(state.formula).bound.formula, desk.vocabulary, moved)
        return replace(state, positions=moved, formula=formula)


def read_question(posted: object, desk: Desk) -> SweepQuestion:
    """What a client posted, checked: `{"state", "part", "name", "low", "high", "tokens"}`; a missing seed is drawn.

    Raises:
        MixerError: it is not as the panel sends it, or the formula cannot be read or does not follow the slider.
    """
    if not isinstance(posted, Mapping):
        raise InvalidValue("The sweep is not an object.", "Send {state, part, name, low, high, tokens}.")
    part, name = posted.get("part"), posted.get("name")
    if part not in LIMITS:
        raise UnknownName("kind of slider", str(part), LIMITS)
    known = desk.attributes if part == "position" else desk.rewards
    if name not in list(known):
        raise UnknownName("attribute" if part == "position" else "reward", str(name), known)
    limit = LIMITS[part]
    low, high = (bounded(f"The {key} end", posted.get(key), -limit, limit) for key in ("low", "high"))
    if high - low < LEAST_STEP * (STOPS - 1):
        raise InvalidValue("The range from the low to the high end is too small.", "Take them further apart.")
    tokens = FIELDS["tokens"].check(bounded("The number of tokens", posted.get("tokens"), 1, MOST_TOKENS))
    state = replace(read_state(posted.get("state"), desk.attributes, desk.rewards), tokens=tokens)
    asked, found = request(desk, state)
    if part == "position" and found.tie == "none":
        hint = "Put `sliders` into it, or sweep a reward."
        raise InvalidValue("The formula does not follow the sliders, so all seven texts would be the same.", hint)
    if found.positions is not None:
        state = replace(state, positions=found.positions)
    state = replace(state, seed=asked.params.seed, fresh=False)
    return SweepQuestion(part, str(name), stops(low, high), state)


def stops(low: float, high: float) -> tuple[float, ...]:
    """Seven positions at equal distances, rounded to two decimals as on the page's sliders."""
    return tuple(round(low + (high - low) * step / (STOPS - 1), 2) + 0.0 for step in range(STOPS))


def run(desk: Desk, question: SweepQuestion, flag: threading.Event) -> Iterator[dict[str, Any]]:
    """Frames of one sweep, until it is done or the flag is set; closing the iterator gives the rows back.

    A frame is {state, part, name, prompt, seed, cards}, and a card {position, text, score}. The last frame also has the
    text of the `base`, the formula's `title`, and `csv`; its finished cards have `state`, `label` and all `scores`.

    Raises:
        MixerError: one of the texts cannot be written.
    """
    from mixer.tasks.batch import BatchText, write
    from mixer.values.request import Request

    states = [question.at(desk, stop) for stop in question.stops]
    asked, found = request(desk, question.state)
    jobs = [
        *(BatchText(request(desk, state)[0]) for state in states),
        BatchText(Request(asked.prompt, params=asked.params)),
    ]
    frame: dict[str, Any] = {"part": question.part, "name": question.name, "prompt": str(asked.prompt)}
    frame |= {"seed": asked.params.seed, "state": "running"}
    pace = Pace(FRAMES)
    with closing(write(desk, jobs)) as steps:
        for _ in steps:
            if flag.is_set():
                break
            if pace.due():
                yield frame | {"cards": [_card(question, *one) for one in zip(question.stops, jobs, strict=False)]}
    for job in jobs:
        if job.error:
            raise InvalidValue(job.error)
    cards = [_card(question, *one) for one in zip(question.stops, jobs, strict=False)]
    for card, state, job in zip(cards, states, jobs, strict=False):
        if job.written:
            label = describe(state.positions if found.tie != "none" else {}, state.steers, state.decouple)
            card |= {"state": state.json(), "label": label, "scores": job.scores}
    frame["state"] = "stopped" if flag.is_set() else "done"
    yield frame | {"cards": cards, "base": jobs[-1].text, "title": found.title, "csv": table(question, jobs)}


def _card(question: SweepQuestion, stop: float, job: BatchText) -> dict[str, Any]:
    return {"position": stop, "text": job.text, "score": job.scores.get(question.name)}


def table(question: SweepQuestion, jobs: Sequence[BatchText]) -> str:
    """The finished texts as CSV; measured scores are on the slider's scale, -1 to 1."""
    from mixer.files.csv_table import write_table

    name = question.name if question.part == "position" else f"reward.{question.name}"
    rows = []
    for stop, job in zip(question.stops, jobs, strict=False):
        if job.written:
            score = job.scores.get(question.name)
            rows.append([name, f"{stop:g}", "" if score is None else f"{2 * score - 1:.4f}", job.text])
    return write_table(["attribute", "asked", "measured", "text"], rows)


def panel(desk: Desk, browsers: BrowserSessions) -> None:
    """The sweep in its tab."""
    sliders = [("position", name) for name in desk.attributes] + [("reward", name) for name in desk.rewards]
    box = gr.HTML(
        html_template=_TEMPLATE,
        js_on_load=script("save.js", "sweep.js"),
        apply_default_css=False,
        elem_id="sweep-panel",
        sliders=sliders,
        limits=LIMITS,
        tokens=TOKENS,
        most=MOST_TOKENS,
    )
    wire(box, browsers, "sweep", lambda posted, flag: run(desk, read_question(posted, desk), flag), AT_ONCE)
