"""The page's state as a link, whose keys a person can read.

    ?v=1&p=Dear+neighbour%2C&formality=0.6&r.sentiment=0.8&aim.toxicity=0.1&f=1.5*sliders+-+0.5*base&seed=3

A link leaves out what is as in a new page, except the prompt. Links come from anywhere: a part that is wrong is left
out by itself, with a sentence. Knows neither Gradio nor the desk.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlencode

from mixer.errors import InvalidValue, MixerError
from mixer.formula.lexer import LONGEST
from mixer.ui.state.controls import read_positions, read_steering, read_text
from mixer.ui.state.page_state import PageState
from mixer.values.request import FIELDS, Field

VERSION = "1"
MOST_LETTERS = {"prompt": 20_000, "formula": LONGEST}  # of a text in a link
MOST_PARTS = 200  # of a link
BY_KEY = {field.link: field for field in FIELDS.values() if field.link and field.kind is not dict}
POSITION, REWARD, LEVEL = (FIELDS[name].link for name in ("positions", "rewards", "levels"))
NO_NUMBER = ("budget", "seed")  # may be None, which a link has as `none`


def write_query(state: PageState) -> str:
    """The state as the query of a link, without a question mark; `read_query` reads it back."""
    new, parts = PageState().json(), [("v", VERSION)]
    for name, value in state.json().items():
        field = FIELDS[name]
        if field.kind is dict:
            parts += [(_key(field, own), _text(number)) for own, number in value.items()]
        elif value != new[name] or name == "prompt":
            parts.append((field.link, _text(value)))
    return urlencode(parts)


def _key(field: Field, name: str) -> str:
    """The key of one attribute or reward head; an attribute's position needs no prefix if its name is no other key."""
    plain = field.link == POSITION and name not in ("v", *BY_KEY) and "." not in name and not name.startswith("__")
    return name if plain else field.link + name


def read_query(query: str, names: Collection[str], heads: Collection[str]) -> tuple[PageState, list[str]] | None:
    """The state that a link asks for, and a sentence for each part that was left out.

    None if the query has no `v`: then it holds no state.
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
            continue  # Gradio's own, such as __theme
        try:
            state = _part(state, key, text, names, heads)
        except MixerError as error:
            notes.append(f"{key[:40]}={text[:40]}{'…' * (len(text) > 40)} was left out of the link: {error}")
    return state, notes


def _part(state: PageState, key: str, text: str, names: Collection[str], heads: Collection[str]) -> PageState:
    """The state with one part of a link in it."""
    steering = state.steering
    if field := BY_KEY.get(key):
        changed: dict[str, Any] = {field.name: _value(field, text)}
        if field.name in ("budget", "whole"):
            return replace(state, steering=replace(steering, **changed))
        return replace(state, **changed)
    for prefix, part in ((REWARD, "positions"), (LEVEL, "levels")):
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            read_steering({"rewards": {name: 0}}, heads)  # raises for a name that is none
            changed = {part: {**getattr(steering, part), name: _number(text)}}
            return replace(state, steering=replace(steering, **changed))
    name = key.removeprefix(POSITION)
    read_positions({name: 0}, names)  # raises for a name that is none
    added = read_positions({name: _number(text)}, names)
    return replace(state, positions=MappingProxyType({**state.positions, **added}))


def _value(field: Field, text: str) -> Any:
    """The value of a field as a link has it; see `_text`."""
    if field.kind is bool:
        if text not in ("0", "1"):
            raise InvalidValue("That is neither 1 nor 0.", "Leave it out for 0.")
        return text == "1"
    if field.kind is str:
        return field.check(read_text(field.noun, text, MOST_LETTERS.get(field.name)))
    if text == "none" and field.name in NO_NUMBER:
        return None
    return field.check(_number(text), True)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidValue("That is no number.", "Write it as 0.6.") from None


def _text(value: str | bool | float | None) -> str:
    """A value as a link has it: a number is the shortest text that reads back as this number."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, bool) else repr(value).removesuffix(".0")
