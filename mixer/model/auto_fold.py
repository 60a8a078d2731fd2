"""When to fold: a cache of the one mix that everybody writes under, made where it pays and dropped where it does not.

A fold costs time once and saves the gate's share of every pass. It is made when all texts in flight share one mix, none
of them was moved lately, and what is left to write will pay for it one and a half times, by costs that are measured
here. As soon as one text has another mix, the base's own weights come back, which costs nothing.

Knows networks and costs; no sessions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mixer.model.backend import Backend

MARGIN = 1.5


@dataclass(frozen=True)
class FoldCosts:
    """Seconds: what a pass over one token saves when its mix is folded, and what a fold takes."""

    saved: float
    fold: float


class AutoFold:
    """Folds and unfolds one network's weights between passes; called under the model's lock.

    Args:
        scratch: a row that no text uses.

    Attributes:
        by_hand: whether a person chose what is folded; then it stays.
        costs: as measured, once a fold first came into question.
    """

    def __init__(self, network: Backend, scratch: int) -> None:
        self._backend, self._scratch = network, scratch
        self.by_hand = False
        self.costs: FoldCosts | None = None

    def settle(self, shared: tuple[float, ...] | None, tokens_left: int) -> None:
        """Bring the weights to what pays.

        Args:
            shared: the coefficients that all texts in flight have, `(K,)`; None where they differ or were just moved.
            tokens_left: passes that are still to come.
        """
        folded = self._backend.gate.folded
        if self.by_hand or shared == folded:
            return
        if shared is None or not any(shared):
            if any(folded):
                self._backend.fold((0.0,) * len(folded))
            return
        if self.costs is None:
            if tokens_left < 8:  # too few for any fold to pay
                return
            self.costs = self._measure(shared)
        if tokens_left * self.costs.saved > MARGIN * self.costs.fold:
            self._backend.fold(shared)

    def _measure(self, coefficients: tuple[float, ...]) -> FoldCosts:
        gate, zero = self._backend.gate, (0.0,) * len(coefficients)
        passes = []
        for mix in (coefficients, zero):
            gate[self._scratch] = mix
            passes.append(_least(lambda: self._backend.forward([0], [self._scratch], [0], [0]), times=12))
        gate[self._scratch] = None
        fold = _least(lambda: self._backend.fold(coefficients), times=2, after=lambda: self._backend.fold(zero))
        return FoldCosts(passes[0] - passes[1], fold)


def _least(work: Callable[[], object], times: int, after: Callable[[], object] = lambda: None) -> float:
    """Seconds that the quickest of so many runs takes; `after` follows each, untimed."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
        after()
    return min(seconds)
