"""How fast the page is redrawn and the text is written. Knows nothing of what is drawn or written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

RATE = 15.0  # a redraw for every token of a long text kept the browser busy for seconds


class Pace:
    """Says when to redraw: 15 times a second, with one redraw held back for the moment a slider moves.

    A bucket of two: ordinary redraws wait until it is full and so always leave one, which an urgent redraw takes at
    once. `clock` gives seconds.
    """

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


class Tempo:
    """Holds writing to `rate` tokens a second, so that a hand has time to steer; 0 does not hold it at all."""

    def __init__(self, rate: float) -> None:
        self._gap = 1.0 / rate if rate > 0 else 0.0
        self._next = time.monotonic() + self._gap

    def hold(self, nudge: threading.Event) -> None:
        """Wait for the next token's turn, or for `nudge`, which is cleared: a moved slider shows at once."""
        left = self._next - time.monotonic()
        if left > 0 and nudge.wait(left):
            nudge.clear()
        self._next = time.monotonic() + self._gap
