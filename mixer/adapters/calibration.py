"""Calibrated sliders: what every slider does to every judged score, and positions that move one score alone.

    logit s_i(p) = b_i + sum_j [U_ij c(p_j) + D_ij c(-p_j)] + L_i (1 - exp(-sum_j |p_j| / SOON))

s_i is attribute i's mean score at slider positions p, c the coefficient of the anchor on a slider's side. L is what all
anchors have in common: they lead away from what the base writes by itself, whatever their attribute. Corners at rest
are rounded off, so that slopes change gradually. Asked levels are in the sliders' own measure: 1 asks for the score
that this slider alone reaches at its pole, 0.5 for half of that way, 0 for the base's own. Knows numbers and names; no
anchors, no judges, no text.

The fit is logistic regression on fractions (Papke and Wooldridge, Journal of Applied Econometrics 11, 1996).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

FILE, FORMAT = "coupling.json", 1
KNEE = 0.1  # positions from rest within which a slider's two slopes pass into one another
RIDGE = 0.03  # on the slopes, against a sum of squared errors over all mixes
REST = 20  # mixes that the base itself counts as in a fit: all levels are counted from it
SOON = 0.25  # sum of positions at which most of what anchors have in common is there
PULL = 2.0  # what it costs to move a slider by 1 from where it was asked, against an error of a quarter in one score
ENDS = (0.01, 0.99)  # scores that can be asked for
TURNS, STILL = 100, 1e-6
DIGITS = 4


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
        return _score(self._logits(positions))

    def targets(self, levels: np.ndarray) -> np.ndarray:
        """The scores that asked levels stand for, both `(A,)`."""
        least, most = (np.diag(self.scores(sign * np.eye(len(self.rest)))) for sign in (-1, 1))
        base = _score(self.rest)
        return np.clip(base + np.abs(levels) * (np.where(levels < 0, least, most) - base), *ENDS)

    def positions(self, levels: Mapping[str, float]) -> dict[str, float]:
        """Slider positions within the limit, not far from those asked, whose scores come closest to the asked levels;
        levels not given ask for the base's own score. Attributes that were not measured stand where they were asked.

        Nothing asked is everything at rest. Positions at rest are left out.
        """
        asked = tuple(float(levels.get(name, 0.0)) for name in self.attributes)
        found = dict(zip(self.attributes, self._solved(asked), strict=True))
        return {name: at for name in {**levels, **found} if (at := found.get(name, levels.get(name)))}

    def scales(self) -> dict[str, list[float]]:
        """Of each attribute the scores that levels -1, 0 and 1 ask for."""
        found = np.array([self.targets(np.full(len(self.rest), level)) for level in (-1.0, 0.0, 1.0)])
        return dict(zip(self.attributes, found.T.round(4).tolist(), strict=True))

    def _logits(self, positions: np.ndarray) -> np.ndarray:
        return self.rest + _seen(positions) @ np.concatenate([self.below, self.above, self.leaving[:, None]], 1).T

    @lru_cache(maxsize=256)  # noqa: B019  (there is one calibration to a desk)
    def _solved(self, asked: tuple[float, ...]) -> tuple[float, ...]:
        """Least squares by damped Newton steps, from the asked levels themselves as positions.

        From rest, where no score is wrong, no step leads away.
        """
        levels, base = np.array(asked), _score(self.rest)
        aims = self.targets(levels)
        wanted = np.where(levels == 0, self.rest, np.log(aims / (1 - aims)))
        weights = (4 * base * (1 - base)) ** 2  # errors count as those of scores do near the base

        def cost(positions: np.ndarray) -> float:
            return float(weights @ (self._logits(positions) - wanted) ** 2 + PULL * ((positions - plain) ** 2).sum())

        plain = np.clip(levels, -self.limit, self.limit)
        at, damping, reached = plain, 1.0, cost(plain)
        for _ in range(TURNS):
            share = np.clip(0.5 + at / (2 * KNEE), 0, 1)
            slopes = self.above * share - self.below * (1 - share)
            slopes = slopes + np.outer(self.leaving, (2 * share - 1) * np.exp(-_size(at) / SOON) / SOON)
            push = slopes.T @ (weights * (self._logits(at) - wanted)) + PULL * (at - plain)
            free = (np.abs(at) < self.limit) | (at * push > 0)  # the others lean against their limit
            curve = (slopes.T * weights) @ slopes + (PULL + damping) * np.eye(len(at))
            curve = np.where(np.outer(free, free), curve, np.eye(len(at)))
            new = np.clip(at - np.linalg.solve(curve, push * free), -self.limit, self.limit)
            if (found := cost(new)) <= reached:
                still = np.abs(new - at).max() < STILL
                at, reached, damping = new, found, damping / 3
                if still:
                    break
            else:
                damping *= 4
        return tuple(round(float(x), DIGITS) for x in at)


def fit(attributes: Sequence[str], positions: np.ndarray, scores: np.ndarray, limit: float) -> SliderCalibration:
    """The calibration that explains mean scores `(M, A)` of M mixes at positions `(M, A)`."""
    many = len(attributes)
    seen = np.concatenate([np.ones((len(positions), 1)), _seen(positions)], axis=1)
    counts = np.where((positions == 0).all(1), REST, 1)[:, None]
    ridge = np.diag([1e-6] + [RIDGE] * (seen.shape[1] - 1))
    found = []
    for score in scores.T:
        weights = np.zeros(seen.shape[1])
        for _ in range(100):
            means = _score(seen @ weights)
            curvature = (counts * seen * (means * (1 - means))[:, None]).T @ seen + ridge
            step = np.linalg.solve(curvature, (counts * seen).T @ (score - means) - ridge @ weights)
            weights += step * min(1.0, 2 / max(np.abs(step).max(), 1e-9))
            if np.abs(step).max() < 1e-9:
                break
        found.append(weights)
    rest, below, above, leaving = np.split(np.array(found), [1, 1 + many, 1 + 2 * many], axis=1)
    return SliderCalibration(tuple(attributes), rest[:, 0], below, above, leaving[:, 0], limit)


def _score(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _seen(positions: np.ndarray) -> np.ndarray:
    """What scores depend on, `(..., 2 A + 1)`: the coefficients below and above rest, and having left it."""
    left = 1 - np.exp(-_size(positions)[..., None] / SOON)
    return np.concatenate([_coefficient(-positions), _coefficient(positions), left], axis=-1)


def _size(positions: np.ndarray) -> np.ndarray:
    return (_coefficient(positions) + _coefficient(-positions)).sum(-1)


def _coefficient(positions: np.ndarray) -> np.ndarray:
    """`max(p, 0)` with its corner rounded off, less what that gives at rest."""
    inside = positions * (positions / KNEE + 2) / 4
    return np.where(np.abs(positions) < KNEE, inside, np.maximum(positions, 0) - KNEE / 4)
