"""How reward heads are to steer a text: a second row of sliders, what to aim for, and how far all may go.

A `Steering` is immutable. It knows nothing of tensors, files or models; standard library only.

Sources: Deng and Raffel, "Reward-Augmented Decoding", arXiv 2310.09520; Troshin, Niculae and Fokkens, arXiv 2407.04615.
Calibrated strengths, levels to aim for and the budget are this project's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from mixer.errors import InvalidValue
from mixer.values.bounds import bounded
from mixer.values.mix import POSITION_LIMIT

BUDGET = 1.0  # nats a token; twice what one slider at its pole spends on the average
MOST_NATS = 20.0
MOST_REACH = 1000


@dataclass(frozen=True)
class Steering:
    """Where every reward slider stands, and what limits them together.

    Attributes:
        positions: reward head -> -3 to 3: 0 is at rest, 1 toward the attribute, -1 away from it.
        levels: reward head -> 0 to 1: how far the text is to show the attribute; the head's own reading of the text so
            far decides at every token which way to steer, and how strongly.
        budget: most nats of divergence from the model at every token; None for no limit. It counts what sliders, and
            judges and rewards of a formula do together.
        whole: count the mix and the formula too: everything that takes the text away from the bare base model.
        reach: how many of the likeliest tokens are steered; the others are as likely as before.
        cut: leave those others out, as reward-augmented decoding does.
        fused: steer all tokens inside the model's last product, with no limit of any kind.

    Raises:
        InvalidValue: a number is not finite or out of range, a head has both a position and a level, or `fused` comes
            with what it cannot do.
    """

    positions: Mapping[str, float] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    budget: float | None = BUDGET
    whole: bool = False
    reach: int = 100
    cut: bool = False
    fused: bool = False

    def __post_init__(self) -> None:
        positions = {n: bounded(f"reward {n}", v, -POSITION_LIMIT, POSITION_LIMIT) for n, v in self.positions.items()}
        levels = {name: bounded(f"level of {name}", value, 0.0, 1.0) for name, value in self.levels.items()}
        positions = {name: value for name, value in positions.items() if value}
        if both := sorted(positions.keys() & levels.keys()):
            raise InvalidValue(f"{both[0]} has both a position and a level to aim for.", "Give it one of them.")
        if self.budget is not None:
            object.__setattr__(self, "budget", bounded("budget", self.budget, 0.0, MOST_NATS))
        bounded("reach", self.reach, 1, MOST_REACH)
        if not isinstance(self.reach, int):
            raise InvalidValue(f"reach must be a whole number, not {self.reach!r}.", f"Give one up to {MOST_REACH}.")
        if self.fused and (levels or self.cut or self.whole):
            hint = "Leave `fused` out, or the others."
            raise InvalidValue("Fused heads know no levels, no cut and no budget over the whole.", hint)
        object.__setattr__(self, "positions", MappingProxyType(positions))
        object.__setattr__(self, "levels", MappingProxyType(levels))

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that it asks, in order."""
        return (*self.positions, *self.levels)

    @cached_property
    def key(self) -> str:
        """A digest of every number and option, the same on every machine; equal steerings have equal keys."""
        levels = {name: level + 0.0 for name, level in self.levels.items()}  # no -0.0, which equals 0.0
        budget = None if self.budget is None else self.budget + 0.0
        heads = [sorted(self.positions.items()), sorted(levels.items())]
        parts = repr((heads, budget, self.whole, self.reach, self.cut, self.fused))
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()

    def record(self) -> dict[str, Any]:
        """The fields `rewards`, `levels`, `budget` and `whole` of a request, as plain values (see `request.FIELDS`)."""
        return {
            "rewards": dict(self.positions),
            "levels": dict(self.levels),
            "budget": self.budget,
            "whole": self.whole,
        }

    def with_position(self, head: str, position: float) -> Steering:
        """This steering with one slider moved; a level to aim for is given up."""
        return replace(self, positions={**self.positions, head: position}, levels=_without(self.levels, head))

    def with_level(self, head: str, level: float) -> Steering:
        """This steering with a level to aim for in place of the slider's position."""
        return replace(self, positions=_without(self.positions, head), levels={**self.levels, head: level})

    def without(self, head: str) -> Steering:
        """This steering with one head at rest; what limits the others stays."""
        return replace(self, positions=_without(self.positions, head), levels=_without(self.levels, head))

    def __str__(self) -> str:
        parts = [f"{name} {position:+.2f}" for name, position in self.positions.items()]
        parts += [f"{name} to {level:.2f}" for name, level in self.levels.items()]
        if self.budget is not None and parts:
            parts.append(f"at most {self.budget:g} nats")
        return ", ".join(parts) or "no rewards"


def _without(values: Mapping[str, float], name: str) -> dict[str, float]:
    return {own: value for own, value in values.items() if own != name}


REST = Steering(budget=None)  # steers nothing, limits nothing
