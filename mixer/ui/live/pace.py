"""How fast the page is redrawn and the text is written. Knows nothing of what is drawn or written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

RATE = 15.0  # a redraw for every token of a long text kept the browser busy for seconds
URGENT = 30.0  # under a moving hand


class Pace:
    """Says when to redraw: `rate` times a second, and up to 30 while a slider moves, whose first redraw never waits.

    A bucket of two that fills at the higher rate: ordinary redraws wait until it is full and so always leave one, which
    an urgent redraw takes at once. `clock` gives seconds.
    """

    def __init__(self, rate: float = RATE, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap = 1.0 / rate
        self._clock = clock
        self._level = 2.0
        self._at = self._drawn = clock()

    def due(self, urgent: bool = False) -> bool:
        """Whether to redraw now; saying yes spends one redraw."""
        now = self._clock()
        self._level = min(2.0, self._level + (now - self._at) * URGENT)
        self._at = now
        ready = self._level >= 1.0 if urgent else self._level >= 2.0 and now - self._drawn >= self._gap
        if ready:
            self._level -= 1.0
            self._drawn = now
        return ready


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
