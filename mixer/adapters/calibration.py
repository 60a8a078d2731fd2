"""Calibrated sliders: what every slider does to every judged score, and positions that move one score alone.

    logit s_i(p) = b_i + sum_j [U_ij c(p_j) + D_ij c(-p_j)] + L_i (1 - exp(-sum_j |p_j| / SOON))

s_i is attribute i's mean score at slider positions p. c is the coefficient of the anchor on a slider's side; its corner
at rest is rounded off, so that slopes change gradually. L is what all anchors have in common: whatever their attribute,
they lead away from what the base writes by itself.

A level is what is asked of one slider, on the scale of its own score: 1 asks for the score that this slider alone
reaches at its pole, 0.5 for half of that way, 0 for the base's own score.

Knows numbers and names; no anchors, no judges, no text, no files. The fit is logistic regression on fractions (Papke
and Wooldridge, Journal of Applied Econometrics 11, 1996).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import minimize

KNEE = 0.1  # positions from rest within which a slider's two slopes pass into one another
RIDGE = 0.03  # on the slopes, against a sum of squared errors over all mixes
BASE_COUNT = 20  # how many mixes the base counts as in a fit: all levels are counted from it
SOON = 0.25  # sum of positions at which most of what anchors have in common is there
PULL = 2.0  # cost of moving a slider by 1 from where it was asked; an error of a quarter in one score costs 1
ENDS = (0.01, 0.99)  # scores that can be asked for
DIGITS = 4  # of solved positions


@dataclass(frozen=True, eq=False)
class SliderCalibration:
    """What sliders do to scores.

    Attributes:
        attributes: A names; scores and positions are in their order.
        rest: logits of the scores with every slider at rest, `(A,)`.
        below, above: what is added to the logit of score i by a unit of slider j, `(A, A)`, on either side of rest.
        leaving: what is added to it by leaving rest at all, `(A,)`.
        limit: the farthest position that was measured.
    """

    attributes: tuple[str, ...]
    rest: np.ndarray
    below: np.ndarray
    above: np.ndarray
    leaving: np.ndarray
    limit: float

    def scores(self, positions: np.ndarray) -> np.ndarray:
        """Mean scores at slider positions, both `(..., A)`."""
        slopes = np.concatenate([self.below, self.above, self.leaving[:, None]], axis=1)
        return _sigmoid(self.rest + _features(positions) @ slopes.T)

    def targets(self, levels: np.ndarray) -> np.ndarray:
        """The scores that levels ask for, both `(A,)`."""
        least, most = (np.diag(self.scores(sign * np.eye(len(self.rest)))) for sign in (-1, 1))
        base = _sigmoid(self.rest)
        return np.clip(base + np.abs(levels) * (np.where(levels < 0, least, most) - base), *ENDS)

    def positions(self, levels: Mapping[str, float]) -> dict[str, float]:
        """Slider positions within the limit whose scores come closest to the asked levels, not far from these levels.

        A level that is not given asks for the base's own score. Attributes that were not measured get their level as
        their position. Levels of 0 alone give every slider at rest. Positions at rest are left out.
        """
        asked = tuple(float(levels.get(name, 0.0)) for name in self.attributes)
        found = dict(zip(self.attributes, self._solve(asked), strict=True))
        return {name: at for name in {**levels, **found} if (at := found.get(name, levels.get(name)))}

    def scales(self) -> dict[str, list[float]]:
        """Of each attribute the scores that levels -1, 0 and 1 ask for."""
        found = np.array([self.targets(np.full(len(self.rest), level)) for level in (-1.0, 0.0, 1.0)])
        return dict(zip(self.attributes, found.T.round(4).tolist(), strict=True))

    @lru_cache(maxsize=256)  # noqa: B019  (there is one calibration to a desk)
    def _solve(self, asked: tuple[float, ...]) -> tuple[float, ...]:
        """The least squares of `positions`, by sequential quadratic programming within the limit.

        It starts at the levels themselves as positions. If all are 0, the gradient is zero there: nothing moves.
        """
        levels, base = np.array(asked), _sigmoid(self.rest)
        targets = self.targets(levels)
        wanted = np.where(levels == 0, self.rest, np.log(targets / (1 - targets)))
        weights = 4 * base * (1 - base)  # a logit's error counts as that of its score does near the base
        offset, leaving = weights * (self.rest - wanted), weights * self.leaving
        below, above = weights[:, None] * self.below, weights[:, None] * self.above
        start = np.clip(levels, -self.limit, self.limit)

        def cost(positions: np.ndarray) -> tuple[float, np.ndarray]:
            """Half the weighted sum of squares, and its gradient `(A,)`."""
            up = _coefficient(positions)
            down = up - positions  # the coefficient of the negative position
            staying = np.exp(-(up.sum() + down.sum()) / SOON)
            errors, moved = offset + below @ down + above @ up + leaving * (1 - staying), positions - start
            share = np.clip(0.5 + positions / (2 * KNEE), 0, 1)  # the slope of `up`; that of `down` is share - 1
            by_slider = share * (errors @ above) - (1 - share) * (errors @ below)
            by_leaving = (2 * share - 1) * (staying / SOON * (errors @ leaving))
            return (errors @ errors + PULL * (moved @ moved)) / 2, by_slider + by_leaving + PULL * moved

        limits = [(-self.limit, self.limit)] * len(start)
        found = minimize(cost, start, jac=True, method="SLSQP", bounds=limits, options={"ftol": 1e-12})
        return tuple(round(float(x), DIGITS) for x in found.x)


def fit(attributes: Sequence[str], positions: np.ndarray, scores: np.ndarray, limit: float) -> SliderCalibration:
    """The calibration that explains mean scores `(M, A)` of M mixes at positions `(M, A)`."""
    many = len(attributes)
    features = np.concatenate([np.ones((len(positions), 1)), _features(positions)], axis=1)
    counts = np.where((positions == 0).all(1), BASE_COUNT, 1)
    ridge = np.array([1e-6] + [RIDGE] * (features.shape[1] - 1))

    def regress(score: np.ndarray) -> np.ndarray:
        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            logits = features @ weights
            gradient = (counts * (_sigmoid(logits) - score)) @ features + ridge * weights
            return float(counts @ (np.logaddexp(0, logits) - score * logits) + ridge @ weights**2 / 2), gradient

        return minimize(loss, np.zeros(len(ridge)), jac=True, method="BFGS", options={"gtol": 1e-6}).x

    found = np.array([regress(score) for score in scores.T])
    rest, below, above, leaving = np.split(found, [1, 1 + many, 1 + 2 * many], axis=1)
    return SliderCalibration(tuple(attributes), rest[:, 0], below, above, leaving[:, 0], limit)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _features(positions: np.ndarray) -> np.ndarray:
    """What scores depend on, `(..., 2 A + 1)`: the coefficients below and above rest, and having left it."""
    down, up = _coefficient(-positions), _coefficient(positions)
    left = 1 - np.exp(-(down + up).sum(-1, keepdims=True) / SOON)
    return np.concatenate([down, up, left], axis=-1)


def _coefficient(positions: np.ndarray) -> np.ndarray:
    """`max(p, 0)` with its corner rounded off, and shifted to be 0 at rest."""
    inside = positions * (positions / KNEE + 2) / 4
    return np.where(np.abs(positions) < KNEE, inside, np.maximum(positions, 0) - KNEE / 4)
