"""A state of the page as code to copy: a Python program, a command, and a request to this server.

All three write the same text as the page. Texts that people typed are always quoted.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixer.ui.state.page_state import PENALTIES, PageState
from mixer.ui.state.request import fewest_tokens
from mixer.values.chat import Conversation
from mixer.values.request import FIELDS
from mixer.values.steering import REST


@dataclass(frozen=True)
class DeskSource:
    """What a desk was loaded from, besides the shipped base and anchors.

    Attributes:
        load: arguments of `Desk.load`, such as `{"base": "my-model"}`.
        added: what was loaded for formulas, as (`model`, `judge` or `reward`, name, source, label or empty).
    """

    load: Mapping[str, str] = field(default_factory=dict)
    added: Sequence[tuple[str, str, str, str]] = ()


SHIPPED = DeskSource()
SAMPLING = ("tokens", "fewest_tokens", "temperature", "seed", *PENALTIES)  # arguments of `SamplingParams`


def python(state: PageState, origin: DeskSource = SHIPPED) -> str:
    """A program that prints the text."""
    values, steering = _values(state), state.steers
    params = ", ".join(f"{FIELDS[name].argument}={values[name]!r}" for name in SAMPLING if name in values)
    asked = state.asked
    messages = [message.record() for message in asked.messages] if isinstance(asked, Conversation) else None
    lines = [
        f"{messages or state.prompt!r},",
        f"desk.mix({dict(state.positions)!r})," if state.positions else "desk.mix(),",
        f"SamplingParams({params}),",
    ]
    names = "Desk, SamplingParams"
    if values["formula"] is not None:
        lines.append(f"formula={state.formula!r},")
    if steering != REST:
        names += ", Steering"
        numbers = f"{dict(steering.positions)!r}, {dict(steering.levels)!r}"
        lines.append(f"steering=Steering({numbers}, budget={steering.budget!r}, whole={steering.whole!r}),")
    body = "\n".join(f"    {line}" for line in lines)
    loaded = f"desk = Desk.load({', '.join(f'{name}={value!r}' for name, value in origin.load.items())})\n"
    for kind, name, source, label in origin.added:
        loaded += f"desk.add_{kind}({name!r}, {source!r}{label and f', {label!r}'})\n"
    call = f"output = desk.{'chat' if messages else 'generate'}(\n{body}\n)"
    return f"from mixer import {names}\n\n{loaded}{call}\nprint(output.text)\n"


def shell(state: PageState, origin: DeskSource = SHIPPED) -> str:
    """A command that prints the text."""
    asked = [(f"--{name.replace('_', '-')}", value) for name, value in origin.load.items()]
    for kind, name, source, label in origin.added:
        asked.append(("--reward-model" if kind == "reward" else f"--{kind}", f"{name}={source}{label and f'#{label}'}"))
    flags = []
    for name, value in _values(state).items():
        flag = FIELDS[name].flag
        if isinstance(value, Mapping):
            asked += [(flag, f"{own}={number!r}") for own, number in value.items()]
        elif name == "budget":
            asked += [(flag, "none" if value is None else repr(value))] * (state.steers != REST)
        elif isinstance(value, bool):
            flags += [flag] * (value and bool(flag))
        elif flag and value is not None:
            asked.append((flag, str(value)))
    words = [f"{flag}={shlex.quote(value)}" for flag, value in asked]  # a value may begin with a minus
    return f"python -m mixer generate {' '.join([*words, *flags])} -- {shlex.quote(state.prompt)}\n"


def curl(state: PageState, address: str) -> str:
    """A request to the server at this address; the last line of the answer holds the text."""
    calls = f"{address.rstrip('/')}/gradio_api/call"
    body = shlex.quote(json.dumps(request(state), ensure_ascii=False))
    ask = f"curl -s {shlex.quote(f'{calls}/v2/generate')} -H 'Content-Type: application/json' -d {body}"
    return f"{ask} |\n  sed 's/.*: *\"//; s/\".*//' | xargs -I ID curl -sN {shlex.quote(f'{calls}/generate')}/ID\n"


def request(state: PageState) -> dict[str, Any]:
    """The arguments of the endpoint `generate`. It has no budget without a limit, and gets the largest one instead."""
    values = _values(state)
    if state.steers == REST:
        del values["budget"]
    elif values["budget"] is None:
        values["budget"] = FIELDS["budget"].high
    return {
        FIELDS[name].argument: value
        for name, value in values.items()
        if value is not None and value is not False and value != {}
    }


def _values(state: PageState) -> dict[str, Any]:
    """The fields of the request that Generate makes; None for a seed to draw, and for the formula `sliders`.

    Neutral penalties are left out.
    """
    return {
        "prompt": state.prompt,
        "reply": state.reply,
        "system": state.system if state.reply and state.system.strip() else None,
        "positions": dict(state.positions),
        **state.steers.record(),
        "decouple": state.decouple,
        "formula": None if state.formula == PageState().formula else state.formula,
        "temperature": state.temperature,
        "tokens": state.tokens,
        "fewest_tokens": fewest_tokens(state.tokens, state.reply),
        "seed": None if state.fresh else state.seed,
        **state.penalties,
    }
