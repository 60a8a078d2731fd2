"""A state of the page as text that runs elsewhere: in Python, on the command line, and as a request to this server.

All three write the very text that the page writes. Texts that people typed go in quoted, never bare.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mixer.ui.state.controls import fewest_tokens
from mixer.ui.state.page_state import PageState
from mixer.values.steering import MOST_NATS, REST


@dataclass(frozen=True)
class DeskSource:
    """What a desk was loaded from, where that is not the shipped one alone.

    Attributes:
        load: arguments of `Desk.load`, such as `{"base": "my-model"}`.
        added: what was loaded for formulas, as (`model`, `judge` or `reward`, name, source, label or nothing).
    """

    load: Mapping[str, str] = field(default_factory=dict)
    added: Sequence[tuple[str, str, str, str]] = ()


SHIPPED = DeskSource()


def python(state: PageState, origin: DeskSource = SHIPPED) -> str:
    """A program that prints the text."""
    steering, seed = state.steers, None if state.fresh else state.seed
    lines = [
        f"{state.prompt!r},",
        f"desk.mix({dict(state.positions)!r})," if state.positions else "desk.mix(),",
        f"SamplingParams(max_new_tokens={state.tokens}, min_new_tokens={fewest_tokens(state.tokens)}, "
        f"temperature={state.temperature!r}, seed={seed!r}),",
    ]
    names = "Desk, SamplingParams"
    if state.formula != PageState().formula:
        lines.append(f"formula={state.formula!r},")
    if steering != REST:
        names += ", Steering"
        numbers = f"{dict(steering.positions)!r}, {dict(steering.levels)!r}"
        lines.append(f"steering=Steering({numbers}, budget={steering.budget!r}, whole={steering.whole!r}),")
    body = "\n".join(f"    {line}" for line in lines)
    loaded = f"desk = Desk.load({', '.join(f'{name}={value!r}' for name, value in origin.load.items())})\n"
    for kind, name, source, label in origin.added:
        loaded += f"desk.add_{kind}({name!r}, {source!r}{label and f', {label!r}'})\n"
    return f"from mixer import {names}\n\n{loaded}output = desk.generate(\n{body}\n)\nprint(output.text)\n"


def shell(state: PageState, origin: DeskSource = SHIPPED) -> str:
    """A command that prints the text."""
    steering = state.steers
    asked = [(name.replace("_", "-"), value) for name, value in origin.load.items()]
    for kind, name, source, label in origin.added:
        asked.append(("reward-model" if kind == "reward" else kind, f"{name}={source}{label and f'#{label}'}"))
    asked += [("set", f"{name}={position!r}") for name, position in state.positions.items()]
    asked += [("reward", f"{name}={position!r}") for name, position in steering.positions.items()]
    asked += [("aim", f"{name}={level!r}") for name, level in steering.levels.items()]
    if steering != REST:
        asked.append(("budget", "none" if steering.budget is None else repr(steering.budget)))
    if state.formula != PageState().formula:
        asked.append(("formula", state.formula))
    asked += [("max-new-tokens", str(state.tokens)), ("min-new-tokens", str(fewest_tokens(state.tokens)))]
    asked.append(("temperature", repr(state.temperature)))
    if state.seed is not None and not state.fresh:
        asked.append(("seed", str(state.seed)))
    words = [f"--{option}={shlex.quote(value)}" for option, value in asked]  # a value may begin with a minus
    words += ["--whole"] * steering.whole
    return f"python -m mixer generate {' '.join(words)} -- {shlex.quote(state.prompt)}\n"


def curl(state: PageState, address: str) -> str:
    """A request to the server at this address, whose last line of answer holds the text."""
    where = shlex.quote(f"{address.rstrip('/')}/gradio_api/call/generate")
    body = shlex.quote(json.dumps({"data": request(state)}, ensure_ascii=False))
    ask = f"curl -s {where} -H 'Content-Type: application/json' -d {body}"
    return f"{ask} |\n  sed 's/.*: *\"//; s/\".*//' | xargs -I ID curl -sN {where}/ID\n"


def request(state: PageState) -> list[object]:
    """What the endpoint `generate` takes, in its order; it knows no budget without a limit, and gets the largest."""
    steering = state.steers
    return [
        state.prompt,
        dict(state.positions),
        state.tokens,
        state.temperature,
        None if state.fresh else state.seed,
        None if state.formula == PageState().formula else state.formula,
        dict(steering.positions),
        dict(steering.levels),
        None if steering == REST else MOST_NATS if steering.budget is None else steering.budget,
        steering.whole,
        fewest_tokens(state.tokens),
        state.decouple,
    ]
