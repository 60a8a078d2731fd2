"""The page's state as a link, whose keys a person can read.

    ?v=1&p=Dear+neighbour%2C&formality=0.6&r.sentiment=0.8&aim.toxicity=0.1&f=1.5*sliders+-+0.5*base&seed=3

What stands as a new page has it is left out of a link, but for the prompt. Links come from anywhere: what is wrong in
one is left out by itself, with a sentence. Knows neither Gradio nor the desk.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlencode

from mixer.errors import InvalidValue, MixerError
from mixer.formula.lexer import LONGEST
from mixer.ui.state.controls import FASTEST, options, read_positions, read_steering, read_text
from mixer.ui.state.page_state import PageState, _mode
from mixer.values.bounds import bounded
from mixer.values.steering import BUDGET

VERSION = "1"
MOST_LETTERS = 20_000  # of a prompt in a link
MOST_PARTS = 200  # of a link
REWARD, LEVEL, POSITION = "r.", "aim.", "s."  # before a name; sliders go without where nothing else is called so
SETTINGS = {"t": "temperature", "n": "tokens", "seed": "seed", "rate": "rate"}
KEYS = {"v", "p", "f", "mode", "budget", "whole", "fresh", "decouple", *SETTINGS}


def write_query(state: PageState) -> str:
    """The state as the query of a link, without a question mark; `read_query` reads it back."""
    new, steering = PageState(), state.steering
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


def read_query(query: str, names: Collection[str], heads: Collection[str]) -> tuple[PageState, list[str]] | None:
    """The state that a link asks for, and a sentence for each of its parts that was left out.

    None where the query holds no state: it has no `v`, whatever else it says to the server.
    """
    try:
        parts = parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=MOST_PARTS)
    except ValueError:
        return PageState(), [f"The link has more than {MOST_PARTS} parts, so none of it was read."]
    found, notes = dict(reversed(parts)), []
    if "v" not in found:
        return None
    if found.pop("v") != VERSION:
        notes.append("The link is of another version than this page, which took from it what it understood.")
    state = PageState()
    for key, text in reversed(found.items()):
        if key.startswith("__"):
            continue  # the server's own, such as __theme
        try:
            state = _part(state, key, text, names, heads)
        except MixerError as error:
            notes.append(f"{key[:40]}={text[:40]}{'…' * (len(text) > 40)} was left out of the link: {error}")
    return state, notes


def _part(state: PageState, key: str, text: str, names: Collection[str], heads: Collection[str]) -> PageState:
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


def _setting(state: PageState, key: str, text: str) -> PageState:
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
