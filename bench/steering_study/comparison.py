"""Figures along a slider, with intervals over prompts, and how two methods differ at equal divergence from the base.

All methods continue the same prompts. A bootstrap draws prompts, and all methods are measured on the same draws, so
that what the prompts do to all of them cancels in a difference. Knows nothing of models or sliders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MARGIN = 0.02  # of a judge's score, within which two methods are the same
COVERED = 0.95
DRAWS = 2000
Interval = tuple[float, float]


@dataclass(frozen=True)
class MethodCurve:
    """One method's figures at S slider values in R draws, `(R, S)` each; row 0 counts every prompt once.

    Attributes:
        nats: mean divergence from the base a token.
        scores: a judge's means, and surprise: logarithms of perplexities.
    """

    nats: np.ndarray
    scores: np.ndarray
    surprise: np.ndarray


@dataclass(frozen=True)
class MethodComparison:
    """A method against another one, both at one mean divergence from the base.

    Attributes:
        difference: of the scores, counted in the direction that is steered to.
        ratio: of the perplexities; below 1 where the method's texts are more fluent.
        effect: what the other method's score has gained over rest. Where that is within the margin, to do nothing would
            match as well.
    """

    method: str
    against: str
    nats: float
    difference: float
    interval: Interval
    ratio: float
    ratio_interval: Interval
    effect: float

    @property
    def verdict(self) -> str:
        """`matches` where the difference lies within the margin for certain, and the perplexity is not shown to be
        higher; else what fell short, or went beyond."""
        low, high = self.interval
        if self.effect <= MARGIN:
            return "no effect to match"
        if low >= -MARGIN and high <= MARGIN:
            said = "as strong"
        elif low > MARGIN or high < -MARGIN:
            said = "stronger" if low > 0 else "weaker"
        elif low >= -MARGIN:
            said = "as strong or stronger"
        else:
            said = "as strong or weaker" if high <= MARGIN else "not settled"
        if self.ratio_interval[0] > 1:
            return f"{said}, less fluent"
        return "matches" if said == "as strong" else said


def resampled(prompts: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each prompt counts in each draw, `(1 + draws, prompts)`: each once, then as a bootstrap draws them."""
    counts = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=draws)
    return np.concatenate([np.ones((1, prompts)), counts])


def means(counts: np.ndarray, values: np.ndarray, sizes: np.ndarray | None = None) -> np.ndarray:
    """Means in every draw, `(R,)`, of values `(N,)`, or of sums of so many `sizes`; NaN counts for nothing."""
    known = ~np.isnan(values)
    weights = known if sizes is None else known * sizes
    with np.errstate(invalid="ignore"):
        return counts @ np.where(known, values, 0.0) / (counts @ weights)


def interval(figures: np.ndarray) -> Interval:
    """Where the middle 95 % of draws lie; row 0, the figure itself, is none of them."""
    low, high = np.percentile(figures[1:], [50 * (1 - COVERED), 50 * (1 + COVERED)])
    return float(low), float(high)


def at(nats: np.ndarray, figures: np.ndarray, target: float) -> np.ndarray:
    """Figures where a line first crosses a divergence, `(R,)`; not a number where it never gets so far.

    Between two sliders, figures are taken to be straight along the root of the divergence: a small push moves a score
    in proportion, and the divergence by the square.

    Args:
        nats, figures: `(R, S)`, S sliders from rest outward.
    """
    found = np.full(len(nats), np.nan)
    for i in reversed(range(nats.shape[1] - 1)):
        low, high = nats[:, i], nats[:, i + 1]
        here = (low <= target) & (target <= high)
        span = np.sqrt(high) - np.sqrt(np.maximum(low, 0))
        share = np.where(span > 0, (np.sqrt(target) - np.sqrt(np.maximum(low, 0))) / np.where(span > 0, span, 1), 0.0)
        found = np.where(here, figures[:, i] + share * (figures[:, i + 1] - figures[:, i]), found)
    return found


def compare(
    name: str, line: MethodCurve, against: str, other: MethodCurve, targets: Sequence[float], direction: float = 1.0
) -> list[MethodComparison]:
    """One method less another at each divergence that both reach in every draw."""
    made = []
    for target in targets:
        score, its_score = (at(one.nats, one.scores, target) for one in (line, other))
        surprise, its_surprise = (at(one.nats, one.surprise, target) for one in (line, other))
        difference, ratio = direction * (score - its_score), np.exp(surprise - its_surprise)
        if not (np.isnan(difference).any() or np.isnan(ratio).any()):
            effect = direction * float(its_score[0] - other.scores[0, 0])
            figures = float(difference[0]), interval(difference), float(ratio[0]), interval(ratio), effect
            made.append(MethodComparison(name, against, target, *figures))
    return made


def distinct(texts: Sequence[str], n: int) -> float:
    """Different runs of n words among all of a set of texts (Li et al., arXiv 1510.03055); 1 for no texts at all.

    Of a set and its size: a bootstrap, which draws texts twice, would lower it.
    """
    runs = [run for text in texts for run in _runs(text, n)]
    return len(set(runs)) / len(runs) if runs else 1.0


def repetition(text: str, n: int = 2) -> float:
    """Share of a text's runs of n words that stood in it before."""
    runs = _runs(text, n)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
