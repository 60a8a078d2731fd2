"""How often the page is redrawn: 15 times a second, with one redraw held back for the moment a slider moves.

A bucket of two: ordinary redraws wait until it is full and so always leave one, which an urgent redraw takes at once.
Knows nothing of what is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable

RATE = 15.0  # a redraw for every token of a long text kept the browser busy for seconds


class Pace:
    """Says when to redraw; `clock` gives seconds."""

    def __init__(self, rate: float = RATE, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._level = 2.0
        self._at = clock()

    def due(self, urgent: bool = False) -> bool:
        """Whether to redraw now; saying yes spends one redraw."""
        now = self._clock()
        self._level = min(2.0, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < (1.0 if urgent else 2.0):
            return False
        self._level -= 1.0
        return True
