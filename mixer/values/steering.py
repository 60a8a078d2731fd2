"""Steering by reward heads: positions of reward sliders, levels to aim for, and a budget.

A `Steering` is immutable. Standard library only. This module knows no tensors, files or models.

Sources: Deng and Raffel, "Reward-Augmented Decoding", arXiv 2310.09520; Troshin, Niculae and Fokkens, arXiv 2407.04615.
Calibrated strengths, levels and the budget come from this project.
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

BUDGET = 1.0  # nats per token: twice what one slider at its pole spends on average
MOST_NATS = 20.0
MOST_REACH = 1000


@dataclass(frozen=True)
class Steering:
    """The positions and levels of all reward heads, and what limits them together.

    Attributes:
        positions: reward head -> position, -3 to 3. 1 steers toward the attribute, -1 away from it, 0 not at all.
        levels: reward head -> level, 0 to 1: how much of the attribute the text should show. At every token the head's
            reading of the text so far decides in which direction to steer, and how strongly.
        budget: the most nats of divergence from the model at every token; None for no limit. Reward sliders and the
            formula's judges and rewards share it.
        whole: the budget counts the mix and the formula too, that is, everything that differs from the base model.
        reach: how many of the likeliest tokens are steered. The other tokens stay as likely as before.
        cut: exclude those other tokens, as reward-augmented decoding does.
        fused: steer all tokens in the model's last matrix product, without any limit.

    Raises:
        InvalidValue: a number is not finite or out of range, a head has both a position and a level, or `fused` is
            combined with levels, `cut` or `whole`.
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
        """The heads that steer, in order: first those with positions, then those with levels."""
        return (*self.positions, *self.levels)

    @cached_property
    def key(self) -> str:
        """A digest of all numbers and options, equal on every machine. Equal steerings have equal keys."""
        # + 0.0 turns -0.0 into 0.0, because the two are equal.
        levels = {name: level + 0.0 for name, level in self.levels.items()}
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
        """This steering with one slider moved. The head's level, if it has one, is removed."""
        return replace(self, positions={**self.positions, head: position}, levels=_without(self.levels, head))

    def with_level(self, head: str, level: float) -> Steering:
        """This steering with a level for one head. The head's position, if it has one, is removed."""
        return replace(self, positions=_without(self.positions, head), levels={**self.levels, head: level})

    def without(self, head: str) -> Steering:
        """This steering without one head. The limits stay."""
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
