"""Everything that makes a text again, as one value. Knows neither Gradio nor the desk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mixer.errors import InvalidValue
from mixer.ui.state.controls import (
    FASTEST,
    MODES,
    options,
    read_box,
    read_flag,
    read_positions,
    read_steering,
    read_text,
)
from mixer.values.bounds import bounded
from mixer.values.steering import BUDGET, REST, Steering


@dataclass(frozen=True)
class PageState:
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


def read_state(posted: object, names: Collection[str], heads: Collection[str]) -> PageState:
    """A state as the browser sends it, checked; what is missing is as in a new page.

    Raises:
        UnknownName: it names an attribute that is not in `names`, or a reward that is not in `heads`.
        InvalidValue: anything else is not as the page sends it.
    """
    if not isinstance(posted, Mapping):
        raise InvalidValue("The state is not an object.", "Send one as the page does.")
    new = PageState()
    whole = {**new.json(), **posted}
    prompt, fresh = whole["prompt"], whole["fresh"]
    if not isinstance(fresh, bool):
        raise InvalidValue("Whether to draw a new seed is not true or false.", "Leave it out.")
    params = options(whole["tokens"], whole["temperature"], 0 if whole["seed"] is None else whole["seed"])
    return PageState(
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


def _mode(value: Any) -> str:
    if value not in MODES:
        raise InvalidValue("There is no such mode.", f"Choose one of {', '.join(MODES)}.")
    return value
