"""Right answers before times: what a system must show before it is measured. Pure arithmetic on what was collected.

A system's next-token log-probabilities must agree with a float32 reference whose weights are merged, and each token it
writes must be one that the reference finds likeliest, both within a tolerance. Tolerances are those of the precision:
on the embedded model a system that computes the right thing is off by 0.00001 in float32, by 0.006 where its cache is
float16, and by 0.09 in bfloat16; one coefficient that is wrong by 0.05 shows as 0.06 to 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TOLERANCE = {"float32": 0.01, "bfloat16": 0.2}
REACHED = 0.001  # how near to 1 a coefficient must end that was dragged there
LEAK = 4 << 20  # bytes over a whole walk: less than that is the allocator's breathing


@dataclass(frozen=True)
class Verdict:
    """Whether a system may be timed, and how far off it was.

    Attributes:
        off: largest difference of a log-probability after the prompt.
        short: most that a written token falls short of the reference's likeliest, in nats.
        tolerance: how much `off` may be; `short` may be twice that, since two log-probabilities are off.
    """

    off: float
    short: float
    tolerance: float

    @property
    def right(self) -> bool:
        """False for a system that computes something else."""
        return self.off <= self.tolerance and self.short <= 2 * self.tolerance  # NaN is wrong too


def judge(
    found: Sequence[float], reference: Sequence[float], short: Sequence[float], dtype: str, floor: float = -30.0
) -> Verdict:
    """Weigh a system's answers.

    Args:
        found: its log-probabilities after the prompt, `(V,)`.
        reference: the reference's.
        short: for each token it wrote, how much less likely the reference finds it than the likeliest.
        floor: log-probabilities below are not compared.
    """
    ours, theirs = np.maximum(found, floor), np.maximum(reference, floor)
    off = float(np.abs(ours - theirs).max())
    return Verdict(off, float(max(short, default=0.0)), TOLERANCE[dtype])


def coefficient_reached(texts: Mapping[str, Sequence[Sequence[float]]]) -> float:
    """The coefficient that a dragged text runs under, from its log-probabilities and those of fresh texts near 1.

    Args:
        texts: `(token, logprob)` for each step of `dragged`, and of fresh texts `at` 1, `below` at 0.99 and `above` at
            1.01; compared as far as their tokens agree.
    """
    steps = list(zip(texts["dragged"], texts["at"], texts["below"], texts["above"], strict=True))
    same = next((i for i, step in enumerate(steps) if len({token for token, _ in step}) > 1), len(steps))
    if not same:
        return float("nan")
    dragged, at, below, above = np.array([[logprob for _, logprob in step] for step in steps[:same]]).T
    slope = (above - below) / 0.02
    return 1.0 + float(((dragged - at) * slope).sum() / max((slope**2).sum(), 1e-12))


def slope(samples: Sequence[Sequence[float]]) -> float:
    """Bytes a move: the slope of memory over moves, the first half left out as warm-up."""
    moves, memory = np.array(samples[len(samples) // 2 :], dtype=float).T
    return float(np.polyfit(moves, memory, 1)[0]) if len(moves) > 1 else 0.0
