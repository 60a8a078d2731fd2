"""Slider positions as values: attributes, settings, and the mix that they make.

A `Mix` is immutable and turns into one coefficient per anchor. Standard library only. This module knows no tensors,
files or models.

Source of the interpolation rule: Kangaslahti and Alvarez-Melis, "Continuous Language Model Interpolation for
Dynamic and Controllable Text Generation", arXiv 2404.07117, equation 3.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Literal, get_args

from mixer.errors import UnknownName
from mixer.values.bounds import bounded

Pole = Literal["negative", "positive"]
MixRule = Literal["offset", "interpolate"]
POLES: tuple[Pole, ...] = get_args(Pole)
RULES: tuple[MixRule, ...] = get_args(MixRule)

# The paper finds extrapolation stable to about alpha in [-1, 2], which is a position in [-3, 3].
POSITION_LIMIT = 3.0
COEFFICIENT_LIMIT = 100.0


@dataclass(frozen=True)
class Anchor:
    """A LoRA adapter trained to one pole of one attribute. It holds what the files say, but not their tensors."""

    attribute: str
    pole: Pole
    base_model: str
    rank: int
    lora_alpha: float
    path: str
    use_rslora: bool = False

    @property
    def name(self) -> str:
        """The name used in coefficients and formulas, such as `formality.positive`."""
        return f"{self.attribute}.{self.pole}"

    @property
    def scaling(self) -> float:
        """LoRA's factor before `B @ A`: `lora_alpha / rank`, or `lora_alpha / sqrt(rank)` for rsLoRA."""
        return self.lora_alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


@dataclass(frozen=True)
class Attribute:
    """A trait that one slider controls: its two anchors (either may be missing) and the labels of its poles."""

    name: str
    negative: Anchor | None
    positive: Anchor | None
    labels: tuple[str, str]
    description: str = ""

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """The anchors that exist, negative pole first."""
        return tuple(anchor for anchor in (self.negative, self.positive) if anchor is not None)


@dataclass(frozen=True)
class Setting:
    """The position of one attribute, as `alpha` and `lambda_` of the paper.

    Attributes:
        alpha: 0 is the negative pole, 1 the positive pole.
        lambda_: the attribute's share of the mix.

    Raises:
        InvalidValue: a number is not finite or out of range.
    """

    alpha: float
    lambda_: float = 1.0

    def __post_init__(self) -> None:
        bounded("alpha", self.alpha, (1 - POSITION_LIMIT) / 2, (1 + POSITION_LIMIT) / 2)
        bounded("lambda_", self.lambda_, -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT)

    @classmethod
    def at(cls, position: float, lambda_: float = 1.0) -> Setting:
        """The setting at a slider position: -1 is the negative pole, 1 the positive pole, beyond is extrapolation."""
        return cls((bounded("position", position, -POSITION_LIMIT, POSITION_LIMIT) + 1) / 2, lambda_)

    @property
    def position(self) -> float:
        """`alpha` as a slider shows it: -1 is the negative pole, 1 the positive pole."""
        return round(2 * self.alpha - 1, 12)

    def coefficients(self, rule: MixRule) -> tuple[float, float]:
        """Coefficients of the (negative, positive) anchor.

        `interpolate` is the paper's rule. With it, alpha 0.5 is the mean of both anchors and not the base model.
        `offset` gives the position's absolute value to the anchor of its sign. With it, position 0 is the base model.
        """
        if rule == "interpolate":
            return self.lambda_ * (1 - self.alpha), self.lambda_ * self.alpha
        return self.lambda_ * max(-self.position, 0.0), self.lambda_ * max(self.position, 0.0)


@dataclass(frozen=True, eq=False)
class Mix:
    """Settings under a rule, plus raw coefficients of anchors. `Mix()` is the base model.

    Two mixes are equal if they give the same coefficients, no matter how they were made.

    Raises:
        UnknownName: there is no such rule.
        InvalidValue: a raw coefficient is not finite or out of range.
    """

    settings: Mapping[str, Setting] = field(default_factory=dict)
    rule: MixRule = "offset"
    raw: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UnknownName("mix rule", str(self.rule), RULES)
        raw = {name: bounded(name, c, -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT) for name, c in self.raw.items()}
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        object.__setattr__(self, "raw", MappingProxyType(raw))

    @cached_property
    def weights(self) -> Mapping[str, float]:
        """Anchor name -> coefficient. Zeros are left out."""
        total = dict(self.raw)
        for attribute, setting in self.settings.items():
            for pole, coefficient in zip(POLES, setting.coefficients(self.rule), strict=True):
                name = f"{attribute}.{pole}"
                total[name] = total.get(name, 0.0) + coefficient
        return MappingProxyType({name: coefficient for name, coefficient in total.items() if coefficient})

    @cached_property
    def key(self) -> str:
        """A digest of the coefficients, equal on every machine. It is part of every cache key."""
        return f"{sum(_digest(name, coefficient) for name, coefficient in self.weights.items()) % 2**128:032x}"

    def coefficients(self, anchors: Sequence[str]) -> tuple[float, ...]:
        """One float per anchor name, `(K,)`.

        If `anchors` holds only one pole of an attribute, the other pole's coefficient is subtracted from it.

        Raises:
            UnknownName: the mix has a coefficient for an attribute of which neither pole is in `anchors`.
        """
        coefficients = tuple([self.weights.get(name, 0.0) for name in anchors])
        if sum(map(bool, coefficients)) < len(self.weights):
            weights = _onto_existing_poles(self.weights, anchors)
            coefficients = tuple([weights.get(name, 0.0) for name in anchors])
        return coefficients

    def with_position(self, attribute: str, position: float) -> Mix:
        """This mix with one slider moved. The attribute keeps its `lambda_`."""
        former = self.settings.get(attribute)
        return self._moved(attribute, Setting.at(position, former.lambda_ if former else 1.0))

    def without(self, attribute: str) -> Mix:
        """This mix without the setting of one attribute."""
        return replace(self, settings={name: s for name, s in self.settings.items() if name != attribute})

    def _moved(self, attribute: str, setting: Setting) -> Mix:
        """This mix with one setting replaced.

        It copies the coefficients and computes only this attribute's. It does not repeat checks. So the cost of a
        slider move hardly depends on the number of anchors.
        """
        moved, settings, weights = object.__new__(Mix), {**self.settings, attribute: setting}, dict(self.weights)
        for pole, coefficient in zip(POLES, setting.coefficients(self.rule), strict=True):
            name = f"{attribute}.{pole}"
            if total := self.raw.get(name, 0.0) + coefficient:
                weights[name] = total
            else:
                weights.pop(name, None)
        moved.__dict__.update(
            settings=MappingProxyType(settings), rule=self.rule, raw=self.raw, weights=MappingProxyType(weights)
        )
        return moved

    def __add__(self, other: Mix) -> Mix:
        names = {*self.weights, *other.weights}
        return Mix(raw={name: self.weights.get(name, 0.0) + other.weights.get(name, 0.0) for name in names})

    def __mul__(self, factor: float) -> Mix:
        return Mix(raw={name: coefficient * factor for name, coefficient in self.weights.items()})

    __rmul__ = __mul__

    def __neg__(self) -> Mix:
        return self * -1.0

    def __sub__(self, other: Mix) -> Mix:
        return self + -other

    def __eq__(self, other: object) -> bool:
        return dict(self.weights) == dict(other.weights) if isinstance(other, Mix) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        parts = [f"{name} {setting.position:+.2f}" for name, setting in sorted(self.settings.items())]
        parts += [f"{coefficient:+.2f}*{name}" for name, coefficient in sorted(self.raw.items())]
        return ", ".join(parts) or "base"


@lru_cache(maxsize=4096)
def _digest(name: str, coefficient: float) -> int:
    """A hash of 128 bits of one coefficient. A mix's key is the sum of these hashes, so order does not count."""
    return int.from_bytes(hashlib.blake2b(f"{name}={coefficient!r}".encode(), digest_size=16).digest())


def _onto_existing_poles(weights: Mapping[str, float], anchors: Iterable[str]) -> dict[str, float]:
    """`weights` by anchors of `anchors` only: a missing pole becomes the negative of its opposite."""
    known = set(anchors)
    result: dict[str, float] = {}
    for name, coefficient in weights.items():
        attribute, _, pole = name.rpartition(".")
        opposite = f"{attribute}.{'positive' if pole == 'negative' else 'negative'}"
        if name not in known:
            if pole not in POLES or opposite not in known:
                raise UnknownName("anchor", name, known)
            name, coefficient = opposite, -coefficient
        result[name] = result.get(name, 0.0) + coefficient
    return result
