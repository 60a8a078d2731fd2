"""A slider position as a value: attributes, settings, and the mix they make.

A `Mix` is immutable and turns into one coefficient per anchor. It knows nothing of tensors, files or models; standard
library only.

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
    """A LoRA adapter trained to one pole of one attribute; the files' facts, not their tensors."""

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
    """A controllable trait, one slider: its two anchors (either may be missing) and what to call its ends."""

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
    """Where one attribute stands: `alpha` 0 at the negative pole, 1 at the positive one; `lambda_` its share."""

    alpha: float
    lambda_: float = 1.0

    def __post_init__(self) -> None:
        bounded("alpha", self.alpha, (1 - POSITION_LIMIT) / 2, (1 + POSITION_LIMIT) / 2)
        bounded("lambda_", self.lambda_, -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT)

    @classmethod
    def at(cls, position: float, lambda_: float = 1.0) -> Setting:
        """The setting at a slider position: -1 is the negative pole, 1 the positive one, beyond is extrapolation."""
        return cls((bounded("position", position, -POSITION_LIMIT, POSITION_LIMIT) + 1) / 2, lambda_)

    @property
    def position(self) -> float:
        """`alpha` as a slider shows it, -1 to 1."""
        return round(2 * self.alpha - 1, 12)

    def coefficients(self, rule: MixRule) -> tuple[float, float]:
        """Coefficients of the (negative, positive) anchor.

        `interpolate` is the paper's rule, where alpha 0.5 is the mean of both anchors and not the base model;
        `offset` gives the signed position to the anchor on its side, so that position 0 is the base model.
        """
        if rule == "interpolate":
            return self.lambda_ * (1 - self.alpha), self.lambda_ * self.alpha
        return self.lambda_ * max(-self.position, 0.0), self.lambda_ * max(self.position, 0.0)


@dataclass(frozen=True, eq=False)
class Mix:
    """One model in the space that the anchors span: settings under a rule, plus raw coefficients.

    Two mixes are equal when they give the same coefficients, however they were made. `Mix()` is the base model.
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
        """Coefficient of every anchor that has one, by anchor name; zeros left out."""
        total = dict(self.raw)
        for attribute, setting in self.settings.items():
            for pole, coefficient in zip(POLES, setting.coefficients(self.rule), strict=True):
                name = f"{attribute}.{pole}"
                total[name] = total.get(name, 0.0) + coefficient
        return MappingProxyType({name: coefficient for name, coefficient in total.items() if coefficient})

    @cached_property
    def key(self) -> str:
        """A digest of the coefficients, the same on every machine: part of every cache key."""
        return f"{sum(_digest(name, coefficient) for name, coefficient in self.weights.items()) % 2**128:032x}"

    def coefficients(self, anchors: Sequence[str]) -> tuple[float, ...]:
        """One float per anchor name, `(K,)`.

        Where only one pole of an attribute was trained, the other is its negative.

        Raises:
            UnknownName: the mix gives weight to an anchor of which neither pole is in `anchors`.
        """
        coefficients = tuple([self.weights.get(name, 0.0) for name in anchors])
        if sum(map(bool, coefficients)) < len(self.weights):
            weights = _onto_existing_poles(self.weights, anchors)
            coefficients = tuple([weights.get(name, 0.0) for name in anchors])
        return coefficients

    def with_position(self, attribute: str, position: float) -> Mix:
        """This mix with one slider moved; the attribute keeps its `lambda_`."""
        former = self.settings.get(attribute)
        return self._moved(attribute, Setting.at(position, former.lambda_ if former else 1.0))

    def without(self, attribute: str) -> Mix:
        """This mix with one attribute at rest."""
        return replace(self, settings={name: s for name, s in self.settings.items() if name != attribute})

    def _moved(self, attribute: str, setting: Setting) -> Mix:
        """This mix with one setting replaced. All else was checked when this mix was made, and the coefficients are
        carried over but for this attribute's, so that a slider move costs the same however many anchors there are."""
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
    """A number of 128 bits; a mix's key is the sum of its anchors'."""
    return int.from_bytes(hashlib.blake2b(f"{name}={coefficient!r}".encode(), digest_size=16).digest())


def _onto_existing_poles(weights: Mapping[str, float], anchors: Iterable[str]) -> dict[str, float]:
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
