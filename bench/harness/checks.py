"""Right answers before times: what a system must show before it is measured. Pure arithmetic on collected figures.

A system passes if its next-token log-probabilities agree with a float32 reference that has merged weights, and if each
token it writes is one of the likeliest tokens of the reference; both within a tolerance. The tolerance belongs to the
precision. On the embedded model, a right system is off by 0.00001 in float32, by 0.006 with a float16 KV cache, and by
0.09 in bfloat16. One coefficient that is wrong by 0.05 gives a difference of 0.06 to 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TOLERANCE = {"float32": 0.01, "bfloat16": 0.2}
REACHED = 0.001  # largest distance from 1 of a coefficient after it was dragged to 1
LEAK = 4 << 20  # bytes of growth over a whole walk; the allocator alone causes less


@dataclass(frozen=True)
class Verdict:
    """Whether a system may be timed, and how far off it was.

    Attributes:
        off: largest difference of a log-probability after the prompt, in nats.
        short: largest distance of a written token from the likeliest token of the reference, in nats.
        tolerance: limit of `off`. The limit of `short` is twice that, because it is a difference of two
            log-probabilities.
    """

    off: float
    short: float
    tolerance: float

    @property
    def right(self) -> bool:
        """False for a system that computes something else."""
        return self.off <= self.tolerance and self.short <= 2 * self.tolerance  # NaN is wrong too


def compare_with_reference(
    found: Sequence[float], reference: Sequence[float], short: Sequence[float], dtype: str, floor: float = -30.0
) -> Verdict:
    """The verdict on a system's answers.

    Args:
        found: the system's log-probabilities after the prompt, `(V,)`.
        reference: those of the reference, `(V,)`.
        short: for each token that the system wrote, how much less likely it is to the reference than the likeliest.
        dtype: precision of the system, a key of `TOLERANCE`.
        floor: log-probabilities below this value count as this value.
    """
    ours, theirs = np.maximum(found, floor), np.maximum(reference, floor)
    off = float(np.abs(ours - theirs).max())
    return Verdict(off, float(max(short, default=0.0)), TOLERANCE[dtype])


def coefficient_reached(texts: Mapping[str, Sequence[Sequence[float]]]) -> float:
    """The coefficient that a text runs under after a drag to 1, estimated from log-probabilities.

    Args:
        texts: `(token, logprob)` of each step, for the text `dragged` and for fresh texts `at` 1, `below` at 0.99 and
            `above` at 1.01. They are compared up to the first step at which their tokens differ.

    Returns:
        the estimate; NaN if the first tokens differ already.
    """
    steps = list(zip(texts["dragged"], texts["at"], texts["below"], texts["above"], strict=True))
    same = next((i for i, step in enumerate(steps) if len({token for token, _ in step}) > 1), len(steps))
    if not same:
        return float("nan")
    dragged, at, below, above = np.array([[logprob for _, logprob in step] for step in steps[:same]]).T
    slope = (above - below) / 0.02
    return 1.0 + float(((dragged - at) * slope).sum() / max((slope**2).sum(), 1e-12))


def memory_slope(samples: Sequence[Sequence[float]]) -> float:
    """Bytes a move, from samples `(moves, bytes)`: the slope over the second half; the first half is the warm-up."""
    moves, memory = np.array(samples[len(samples) // 2 :], dtype=float).T
    return float(np.polyfit(moves, memory, 1)[0]) if len(moves) > 1 else 0.0
