"""How fast the page is redrawn and text is written. Does not know what is drawn or written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

RATE = 15.0  # redraws a second; one for every token of a long text kept the browser busy for seconds
URGENT = 30.0  # redraws a second while a slider moves


class Pace:
    """Says when to redraw: `rate` times a second; up to 30 times while a slider moves, the first time without waiting.

    A token bucket of size two that fills at the higher rate. Ordinary redraws wait until it is full, so that one token
    is always left, which an urgent redraw takes at once. `clock` gives seconds.
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
    """Limits writing to `rate` tokens a second, so that a person has time to steer; 0 is no limit."""

    def __init__(self, rate: float) -> None:
        self._gap = 1.0 / rate if rate > 0 else 0.0
        self._next = time.monotonic() + self._gap

    def hold(self, nudge: threading.Event) -> None:
        """Waits until the next token is due, or until `nudge` is set, and clears it: a moved slider shows at once."""
        left = self._next - time.monotonic()
        if left > 0 and nudge.wait(left):
            nudge.clear()
        self._next = time.monotonic() + self._gap
