"""Everything that makes a text again, as one value; and as a link, whose keys a person can read.

    ?v=1&p=Dear+neighbour%2C&formality=0.6&r.sentiment=0.8&aim.toxicity=0.1&f=1.5*sliders+-+0.5*base&seed=3

What stands as a new page has it is left out of a link, but for the prompt. Links come from anywhere: what is wrong in
one is left out by itself, with a sentence. Knows neither Gradio nor the desk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlencode

from mixer.errors import InvalidValue, MixerError
from mixer.formula.tokens import LONGEST
from mixer.mix import bounded
from mixer.steering import BUDGET, REST, Steering
from mixer.ui.value import FASTEST, MODES, options, read_box, read_flag, read_positions, read_steering, read_text

VERSION = "1"
MOST_LETTERS = 20_000  # of a prompt in a link
MOST_PARTS = 200  # of a link
REWARD, LEVEL, POSITION = "r.", "aim.", "s."  # before a name; sliders go without where nothing else is called so
SETTINGS = {"t": "temperature", "n": "tokens", "seed": "seed", "rate": "rate"}
KEYS = {"v", "p", "f", "mode", "budget", "whole", "fresh", "decouple", *SETTINGS}


@dataclass(frozen=True)
class State:
    """Where every control of the page stands.

    Attributes:
        prompt: how the text begins.
        formula: as text, right or wrong.
        positions: attribute -> slider position; those at rest are left out.
        decouple: whether the positions are levels asked for, see `decouple`.
        steering: the reward sliders and their budget.
        mode: what a slider does to a running text.
        temperature, tokens: of sampling; tokens are the most.
        seed: of the text; None for an empty box.
        rate: most tokens a second, 0 for all that the machine can.
        fresh: draw a new seed for every text.
    """

    prompt: str = "The last train of the evening was"
    formula: str = "sliders"
    positions: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    steering: Steering = field(default_factory=Steering)
    mode: str = "keep"
    temperature: float = 0.8
    tokens: int = 160
    seed: int | None = 7
    rate: float = 30  # faster than reading, slow enough to steer by hand
    fresh: bool = False
    decouple: bool = False

    @property
    def steers(self) -> Steering:
        """What the reward sliders come to: with all of them and the budget at rest, nothing."""
        resting = not self.steering.heads and self.steering.budget == BUDGET and not self.steering.whole
        return REST if resting else self.steering

    def json(self) -> dict[str, Any]:
        """The state as the browser keeps it; `read_state` reads it back."""
        return {
            "prompt": self.prompt,
            "formula": self.formula,
            "positions": dict(sorted(self.positions.items())),
            "rewards": dict(sorted(self.steering.positions.items())),
            "levels": dict(sorted(self.steering.levels.items())),
            "budget": self.steering.budget,
            "whole": self.steering.whole,
            "decouple": self.decouple,
            "mode": self.mode,
            "temperature": self.temperature,
            "tokens": self.tokens,
            "seed": self.seed,
            "rate": self.rate,
            "fresh": self.fresh,
        }


def read_state(posted: object, names: Collection[str], heads: Collection[str]) -> State:
    """A state as the browser sends it, checked; what is missing is as in a new page.

    Raises:
        UnknownName: it names an attribute that is not in `names`, or a reward that is not in `heads`.
        InvalidValue: anything else is not as the page sends it.
    """
    if not isinstance(posted, Mapping):
        raise InvalidValue("The state is not an object.", "Send one as the page does.")
    new = State()
    whole = {**new.json(), **posted}
    prompt, fresh = whole["prompt"], whole["fresh"]
    if not isinstance(fresh, bool):
        raise InvalidValue("Whether to draw a new seed is not true or false.", "Leave it out.")
    params = options(whole["tokens"], whole["temperature"], 0 if whole["seed"] is None else whole["seed"])
    return State(
        read_text("The prompt", prompt),
        read_box({"text": whole["formula"]}).text,
        read_positions(whole["positions"], names),
        read_steering(whole, heads),
        _mode(whole["mode"]),
        params.temperature,
        params.max_new_tokens,
        None if whole["seed"] is None else params.seed,
        bounded("The speed", whole["rate"], 0, FASTEST),
        fresh,
        read_flag("Whether the sliders are decoupled", whole["decouple"]),
    )


def write_query(state: State) -> str:
    """The state as the query of a link, without a question mark; `read_query` reads it back."""
    new, steering = State(), state.steering
    parts = [("v", VERSION), ("p", state.prompt)]
    for name, position in sorted(state.positions.items()):
        parts.append(
            (POSITION + name if name in KEYS or "." in name or name.startswith("__") else name, _number(position))
        )
    parts += [(REWARD + name, _number(position)) for name, position in sorted(steering.positions.items())]
    parts += [(LEVEL + name, _number(level)) for name, level in sorted(steering.levels.items())]
    if steering.budget != BUDGET:
        parts.append(("budget", "none" if steering.budget is None else _number(steering.budget)))
    if steering.whole:
        parts.append(("whole", "1"))
    if state.decouple:
        parts.append(("decouple", "1"))
    if state.formula != new.formula:
        parts.append(("f", state.formula))
    if state.mode != new.mode:
        parts.append(("mode", state.mode))
    for key, name in SETTINGS.items():
        value = getattr(state, name)
        if value != getattr(new, name):
            parts.append((key, "none" if value is None else _number(value)))
    if state.fresh:
        parts.append(("fresh", "1"))
    return urlencode(parts)


def read_query(query: str, names: Collection[str], heads: Collection[str]) -> tuple[State, list[str]] | None:
    """The state that a link asks for, and a sentence for each of its parts that was left out.

    None where the query holds no state: it has no `v`, whatever else it says to the server.
    """
    try:
        parts = parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=MOST_PARTS)
    except ValueError:
        return State(), [f"The link has more than {MOST_PARTS} parts, so none of it was read."]
    found, notes = dict(reversed(parts)), []
    if "v" not in found:
        return None
    if found.pop("v") != VERSION:
        notes.append("The link is of another version than this page, which took from it what it understood.")
    state = State()
    for key, text in reversed(found.items()):
        if key.startswith("__"):
            continue  # the server's own, such as __theme
        try:
            state = _part(state, key, text, names, heads)
        except MixerError as error:
            notes.append(f"{key[:40]}={text[:40]}{'…' * (len(text) > 40)} was left out of the link: {error}")
    return state, notes


def _part(state: State, key: str, text: str, names: Collection[str], heads: Collection[str]) -> State:
    """The state with one part of a link in it."""
    if key == "p":
        return replace(state, prompt=read_text("The prompt", text, MOST_LETTERS))
    if key == "f":
        return replace(state, formula=read_text("The formula", text, LONGEST))
    if key == "mode":
        return replace(state, mode=_mode(text))
    if key == "fresh":
        return replace(state, fresh=_flag(text))
    if key == "decouple":
        return replace(state, decouple=_flag(text))
    if key in SETTINGS:
        return _setting(state, key, text)
    steering = state.steering
    if key == "whole":
        return replace(state, steering=replace(steering, whole=_flag(text)))
    if key == "budget":
        return replace(state, steering=replace(steering, budget=None if text == "none" else _read(text)))
    for prefix, part in ((REWARD, "positions"), (LEVEL, "levels")):
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            read_steering({"rewards": {name: 0}}, heads)  # it is known
            numbers = {**getattr(steering, part), name: _read(text)}
            changed: dict[str, Any] = {part: numbers}
            return replace(state, steering=replace(steering, **changed))
    name = key.removeprefix(POSITION)
    read_positions({name: 0}, names)  # it is known
    added = read_positions({name: _read(text)}, names)
    return replace(state, positions=MappingProxyType({**state.positions, **added}))


def _setting(state: State, key: str, text: str) -> State:
    if key == "seed" and text == "none":
        return replace(state, seed=None)
    number = _read(text)
    if key == "rate":
        return replace(state, rate=bounded("The speed", number, 0, FASTEST))
    asked = {"n": state.tokens, "t": state.temperature, "seed": 0, key: number}
    if number.is_integer() and key != "t":
        asked[key] = int(text) if text.isdecimal() else int(number)
    params = options(asked["n"], asked["t"], asked["seed"])
    known = {"n": params.max_new_tokens, "t": params.temperature, "seed": params.seed}
    changed: dict[str, Any] = {SETTINGS[key]: known[key]}
    return replace(state, **changed)


def _read(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidValue("That is no number.", "Write it as 0.6.") from None


def _number(value: float) -> str:
    """The shortest text that reads back as this number."""
    return repr(value).removesuffix(".0")


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise InvalidValue("That is neither 1 nor 0.", "Leave it out for 0.")
    return text == "1"


def _mode(value: Any) -> str:
    if value not in MODES:
        raise InvalidValue("There is no such mode.", f"Choose one of {', '.join(MODES)}.")
    return value
