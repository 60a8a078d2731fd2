"""A reference evaluation of formulas, in plain float64, to test `mixer.decoding.evaluate` against.

It carries a bound of the float32 rounding error beside every number. It also remembers how near it came to a jump: a
cut, a threshold, or a tie between parts of different weights. Near a jump float32 may decide otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixer.formula.bind import BoundFormula, Branch

ROUNDING = 2.0**-22  # a few rounding errors of float32


class Refused(Exception):
    """The formula has no value here."""


@dataclass
class Vector:
    """Total, its error in float32 and weight, each `(V,)`; and `size`, the sum of the absolute weights in it."""

    total: np.ndarray
    error: np.ndarray
    weight: np.ndarray
    size: float


class Reference:
    """Evaluates a bound formula for one position.

    Args:
        scores: a function of judge and token: the judge's score of the text with this token, or with None, without one.

    Attributes:
        margin: distance to the nearest jump, less the rounding error of float32.
    """

    def __init__(self, bound: BoundFormula, logprobs: Mapping[Branch, np.ndarray], scores: Any = None) -> None:
        self.bound, self.scores, self.judged = bound, scores, True
        self.logprobs = {branch: np.asarray(table, np.float64) for branch, table in logprobs.items()}
        self.shape = next(iter(self.logprobs.values())).shape
        self.definitions = dict(bound.formula.definitions)
        self.margin = np.inf

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities and their errors in float32."""
        with np.errstate(all="ignore"):
            return self.normal(self.of(self.bound.formula.result))

    def jump(self, distance: Any, error: Any = 0.0) -> None:
        """Record a decision that would change if a value changed by `distance`."""
        distances = np.abs(np.asarray(distance)) - error
        self.margin = min(self.margin, float(np.nanmin(distances, initial=np.inf)))

    def normal(self, vector: Vector) -> tuple[np.ndarray, np.ndarray]:
        least = vector.weight.min()
        if vector.size:
            self.jump(least / vector.size - 1e-6 if least else 1.0, -1e-5 if least <= 0 else 2e-6)
        if least <= max(1e-6 * vector.size, 1e-9):
            raise Refused("weights")
        if np.isnan(vector.total).any() or (vector.total == np.inf).any() or (vector.total == -np.inf).all():
            raise Refused("infinite")
        logits = vector.total / vector.weight
        error = (vector.error + ROUNDING * np.abs(logits) * vector.size) / vector.weight + ROUNDING * np.abs(logits)
        result = logits - np.logaddexp.reduce(logits)
        return result, tidy(result, error + np.exp(result) @ tidy(result, error) + ROUNDING * (1 + np.abs(result)))

    def full(self, value: float) -> np.ndarray:
        return np.full(self.shape, float(value))

    def distribution(self, logprobs: np.ndarray, error: np.ndarray) -> Vector:
        return Vector(logprobs, error, self.full(1), 1.0)

    def bias(self, total: np.ndarray, error: np.ndarray) -> Vector:
        return Vector(total, error, self.full(0), 0.0)

    def of(self, node: Any) -> Any:
        """A `Vector`, a mask `(V,)`, or a float, by the name of the node's class."""
        return getattr(self, type(node).__name__.lower())(node)

    def ref(self, node: Any) -> Any:
        return self.of(self.definitions[node.name])

    def term(self, node: Any) -> Vector:
        return self.distribution(self.logprobs[self.bound.branch_of[node]], self.full(0))

    def number(self, node: Any) -> float:
        return node.value

    def sum(self, node: Any) -> Any:
        parts = [self.of(part) for part in node.parts]
        if not isinstance(parts[0], Vector):
            return sum(parts)
        total, error = parts[0].total, parts[0].error
        for part in parts[1:]:
            total = total + part.total
            error = error + part.error + ROUNDING * np.abs(total)
        weight = np.sum([part.weight for part in parts], axis=0)
        return Vector(total, tidy(total, error), weight, sum(part.size for part in parts))

    def multiplied(self, factor: Any, value: Any) -> Any:
        if not isinstance(value, Vector):
            return factor * value
        factor = factor + self.full(0)
        total = np.where(factor == 0, 0.0, factor * value.total)
        error = tidy(total, np.abs(factor) * (value.error + ROUNDING * np.abs(value.total)))
        return Vector(
            total, np.where(factor == 0, 0.0, error), factor * value.weight, np.abs(factor).max() * value.size
        )

    def neg(self, node: Any) -> Any:
        value = self.of(node.value)
        if not isinstance(value, Vector):
            return -value
        return Vector(-value.total, value.error, -value.weight, value.size)

    def quotient(self, node: Any) -> Any:
        return self.multiplied(1 / node.divisor, self.of(node.value))

    def product(self, node: Any) -> Any:
        factor, vector = 1.0, None
        for value in map(self.of, node.factors):
            if isinstance(value, Vector):
                assert vector is None
                vector = value
            else:
                factor = factor * value
        return factor if vector is None else self.multiplied(factor, vector)

    def picked(self, totals: list[np.ndarray], errors: list[np.ndarray], vectors: list[Vector], sign: int) -> Vector:
        """Per token the part with the largest `sign * total`."""
        total, error, weight = self.full(0), self.full(0), self.full(0)
        for token in range(self.shape[0]):
            best = max(range(len(totals)), key=lambda i: (sign * totals[i][token], -i))
            if any(np.isnan(own[token]) for own in totals):
                best = next(i for i, own in enumerate(totals) if np.isnan(own[token]))
            total[token], error[token] = totals[best][token], errors[best][token]
            weight[token] = vectors[best].weight[token]
            for own, its, vector in zip(totals, errors, vectors, strict=True):
                if vector.weight[token] != weight[token] and np.isfinite(own[token]):
                    self.jump(own[token] - total[token], its[token] + error[token])
                error[token] = max(error[token], its[token] if own[token] == total[token] else 0)
        return Vector(total, error, weight, max(vector.size for vector in vectors))

    def normal_pick(self, node: Any, sign: int) -> Vector:
        vectors = [self.of(part) for part in node.parts]
        normal = [self.normal(vector) for vector in vectors]
        best = self.picked([one[0] for one in normal], [one[1] for one in normal], vectors, sign)
        total = best.total * best.weight
        return Vector(total, tidy(total, best.weight * best.error + ROUNDING * np.abs(total)), best.weight, best.size)

    def union(self, node: Any) -> Vector:
        return self.normal_pick(node, 1)

    def intersect(self, node: Any) -> Vector:
        return self.normal_pick(node, -1)

    def max(self, node: Any) -> Any:
        return self.pick(node, 1)

    def min(self, node: Any) -> Any:
        return self.pick(node, -1)

    def pick(self, node: Any, sign: int) -> Any:
        vectors = [self.of(part) for part in node.parts]
        return self.picked([one.total for one in vectors], [one.error for one in vectors], vectors, sign)

    def norm(self, node: Any) -> Vector:
        return self.distribution(*self.normal(self.of(node.value)))

    def uniform(self, node: Any) -> Vector:
        return self.distribution(self.full(-np.log(self.shape[0])), self.full(ROUNDING))

    def top(self, node: Any) -> Vector:
        logprobs, error = self.normal(self.of(node.value))
        error = error / node.t
        logprobs, error = self.normal(self.distribution(logprobs / node.t, error))
        order = sorted(range(self.shape[0]), key=lambda token: -logprobs[token])
        finite = [token for token in order if logprobs[token] > -np.inf]
        kept = list(finite)
        if 0 < node.k < len(finite):
            self.jump(logprobs[finite[node.k - 1]] - logprobs[finite[node.k]], 2 * error.max())
            kept = finite[: node.k]
        if node.minp > 0:
            floor = logprobs[order[0]] + np.log(node.minp)
            self.jump(logprobs[kept[1:]] - floor, 2 * error.max() + ROUNDING * abs(floor))
            kept = [token for place, token in enumerate(kept) if place == 0 or logprobs[token] >= floor]
        if node.p < 1:
            probs = np.exp(logprobs[kept] - np.logaddexp.reduce(logprobs[kept]))
            before = np.cumsum(probs) - probs
            self.jump(before[1:] - node.p, 2 * error.max() + 1e-6)
            last = max(1, int(np.sum(before < node.p)))
            if last < len(kept):  # a tie at the cut
                self.jump(logprobs[kept[last - 1]] - logprobs[kept[last]], 2 * error.max())
            kept = kept[:last]
        cut = np.where(np.isin(np.arange(self.shape[0]), kept), logprobs, -np.inf)
        return self.distribution(*self.normal(self.distribution(cut, error)))

    def pos(self, node: Any) -> Vector:
        vector = self.of(node.value)
        return self.bias(np.maximum(vector.total, 0), np.where(vector.total < -vector.error, 0.0, vector.error))

    def abs(self, node: Any) -> Vector:
        vector = self.of(node.value)
        return self.bias(np.abs(vector.total), vector.error)

    def indicator(self, node: Any) -> np.ndarray:
        vector = self.of(node.value)
        exact = (vector.total == 0) & (vector.error == 0)
        self.jump(np.where(exact, np.inf, vector.total), vector.error)
        return np.where(vector.total >= 0, 1.0, 0.0)

    def klmask(self, node: Any) -> np.ndarray:
        """By the definition: leave each token out of both, renormalize, and compare."""
        (p, p_error), (q, q_error) = self.normal(self.of(node.source)), self.normal(self.of(node.target))
        whole, mask = divergence(p, q), self.full(0)
        for token in range(self.shape[0]):
            others = np.arange(self.shape[0]) != token
            change = abs(whole - divergence(p[others], q[others]))
            if np.isfinite(change):
                lost = (p_error.max() + q_error.max()) * (1 + np.abs(p).max(initial=0, where=p > -np.inf))
                self.jump(change - node.divergence, 4 * lost + 1e-5 * (whole + change))
            # If no other token is left, count it as a change; from infinite to infinite is no change.
            alone = np.all(p[others] == -np.inf) and np.isfinite(whole)
            mask[token] = alone or (not np.isnan(change) and change > node.divergence)
        return mask

    def selfdebias(self, node: Any) -> Vector:
        (own, error), (other, its) = self.normal(self.of(node.value)), self.normal(self.of(node.biased))
        lost = np.exp(own) * (error + ROUNDING) + np.exp(other) * (its + ROUNDING)
        total = own + node.strength * np.minimum(np.exp(own) - np.exp(other), 0)
        return Vector(total, tidy(total, error + abs(node.strength) * lost), self.full(1), 1.0)

    def supersede(self, node: Any) -> Any:
        return self.of(node.target)

    def ban(self, node: Any) -> Vector:
        return self.bias(self.full(0), self.full(0))

    def strength(self, node: Any) -> float:
        opinion = self.bound.judge_goals[node]
        score = self.scores(opinion.judge, None)
        return max(opinion.goal * score + (1 - opinion.goal) * (1 - score), 1e-6)

    def judgecall(self, node: Any) -> Vector:
        if not self.judged:
            return self.bias(self.full(0), self.full(0))
        over, error = self.without_judges() if node.over is None else self.normal(self.of(node.over))
        order = [token for token in np.argsort(-over) if over[token] > -np.inf]
        if node.k < len(order):
            self.jump(over[order[node.k - 1]] - over[order[node.k]], 2 * error.max())
        opinion = self.bound.judge_goals[node]

        def log_c(token: int | None) -> float:
            score = self.scores(opinion.judge, token)
            score = opinion.goal * score + (1 - opinion.goal) * (1 - score)  # for the name
            return np.log(max(node.goal * score + (1 - node.goal) * (1 - score), 1e-6))

        total = self.full(0)
        for token in order[: node.k]:
            total[token] = log_c(token) - log_c(None)
        return self.bias(total, np.where(total == 0, 0.0, ROUNDING * (np.abs(total) + 2 * abs(log_c(None)))))

    def without_judges(self) -> tuple[np.ndarray, np.ndarray]:
        self.judged = False
        try:
            return self.normal(self.of(self.bound.formula.result))
        except Refused:
            return self.logprobs[self.bound.branches[0]], self.full(0)
        finally:
            self.judged = True


def tidy(total: np.ndarray, error: np.ndarray) -> np.ndarray:
    """`error`, with 0 where the total is infinite."""
    return np.where(np.isfinite(total), error, 0.0)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) in nats of two log-probabilities, each renormalized."""
    p, q = p - np.logaddexp.reduce(p), q - np.logaddexp.reduce(q)
    return float(sum(np.exp(a) * (a - b) for a, b in zip(p, q, strict=True) if a > -np.inf))
