"""When to fold: the mix that all texts share is folded into the weights where that saves time.

A fold takes time once, and saves the adapters' share of every later pass. A mix is folded when all texts in flight
share it, none of them was moved lately, and the tokens left to write save more than 1.5 times what the fold takes. Both
times are measured here. As soon as one text has another mix, the base's own weights are used, which costs nothing.

Knows backends and times; no sessions.
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
    """Folds and unfolds one backend's weights between passes; called under the model's lock.

    Args:
        scratch: a row that no text uses, to measure with.

    Attributes:
        by_hand: whether a person chose the folded mix; then it stays.
        costs: None until a fold is first considered; then as measured.
    """

    def __init__(self, backend: Backend, scratch: int) -> None:
        self._backend, self._scratch = backend, scratch
        self.by_hand = False
        self.costs: FoldCosts | None = None

    def settle(self, shared: tuple[float, ...] | None, tokens_left: int) -> None:
        """Fold or unfold, whichever is faster for what is left to write.

        Args:
            shared: the coefficients that all texts in flight have, `(K,)`; None where they differ or were just moved.
            tokens_left: the number of passes still to come.
        """
        folded = self._backend.gate.folded
        if self.by_hand or shared == folded:
            return
        if shared is None or not any(shared):
            if any(folded):
                self._backend.fold((0.0,) * len(folded))
            return
        if self.costs is None:
            if tokens_left < 8:  # they save less than any fold takes
                return
            self.costs = self._measure(shared)
        if tokens_left * self.costs.saved > MARGIN * self.costs.fold:
            self._backend.fold(shared)

    def _measure(self, coefficients: tuple[float, ...]) -> FoldCosts:
        gate, zero = self._backend.gate, (0.0,) * len(coefficients)
        passes = []
        for mix in (coefficients, zero):
            gate[self._scratch] = mix
            passes.append(shortest_time(lambda: self._backend.forward([0], [self._scratch], [0], [0]), times=12))
        gate[self._scratch] = None
        fold = shortest_time(lambda: self._backend.fold(coefficients), times=2, after=lambda: self._backend.fold(zero))
        return FoldCosts(passes[0] - passes[1], fold)


def shortest_time(
    work: Callable[[], object],
    times: int,
    after: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds that the fastest of `times` runs takes; `after` is called after each run and not timed."""
    seconds = []
    for _ in range(times):
        start = clock()
        work()
        seconds.append(clock() - start)
        after()
    return min(seconds)
