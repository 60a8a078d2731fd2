"""Who is streaming: one `Live` per browser session, holding its newest mix and its running take.

The engine's sessions live here and not in the page's state, which Gradio copies and sends about. Two browser sessions
never share a `Live`. Knows nothing of Gradio.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mixer.ui.value import DeckValue

if TYPE_CHECKING:
    from mixer.engine import Session
    from mixer.mix import Mix

CAPACITY = 1000  # a client may invent as many session names as it likes; the oldest idle ones are forgotten


@dataclass(eq=False)
class Take:
    """One press of Generate: the base row and the row that the sliders steer."""

    base: Session
    mix: Session
    seqs: dict[str, int] = field(default_factory=dict)  # mix key -> the newest deck move that set it
    labels: dict[str, str] = field(default_factory=dict)  # mix key -> that mix in words
    follows: bool = True  # whether the sliders act on its formula
    stopped: bool = False
    nudge: threading.Event = field(default_factory=threading.Event)  # set: write the next token without waiting

    def stop(self) -> None:
        """Ends the take at its next token; from any thread."""
        self.stopped = True
        self.nudge.set()

    def close(self) -> None:
        """Gives its rows back at once."""
        self.stop()
        self.base.close()
        self.mix.close()


class Live:
    """One browser session's part of the desk; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = DeckValue()
        self._take: Take | None = None

    @property
    def value(self) -> DeckValue:
        """The newest deck value seen."""
        return self._value

    @property
    def busy(self) -> bool:
        return self._take is not None

    def steer(self, value: DeckValue, mix: Mix, label: str) -> bool:
        """Takes the mix of a deck move over into the running take, unless a newer move came before it."""
        with self._lock:
            if value.seq <= self._value.seq:
                return False
            self._value = value
            if self._take is not None:
                self._apply(self._take, value, mix, label)
            return True

    def begin(self, take: Take, value: DeckValue, mix: Mix, label: str) -> DeckValue | None:
        """Makes `take` the one that sliders steer; a take still running is stopped.

        Returns:
            None; or the newer deck value that arrived while the take was being made: steer to it.
        """
        with self._lock:
            if self._take is not None:
                self._take.stop()
            self._take = take
            take.seqs[mix.key], take.labels[mix.key] = value.seq, label
            if value.seq < self._value.seq:
                return self._value
            self._value = value
            return None

    def follow(self, take: Take, value: DeckValue, mix: Mix, label: str) -> None:
        """Sets the mix of a take that began with an older deck value."""
        with self._lock:
            if self._take is take and value.seq >= self._value.seq:
                self._apply(take, value, mix, label)

    def end(self, take: Take) -> None:
        """Gives the take's rows back."""
        with self._lock:
            if self._take is take:
                self._take = None
        take.close()

    def stop(self) -> None:
        """Ends the running take at its next token, if there is one."""
        with self._lock:
            if self._take is not None:
                self._take.stop()

    def close(self) -> None:
        """Ends everything and gives the rows back: the browser has gone."""
        with self._lock:
            take, self._take = self._take, None
        if take is not None:
            take.close()

    @staticmethod
    def _apply(take: Take, value: DeckValue, mix: Mix, label: str) -> None:
        take.seqs[mix.key], take.labels[mix.key] = value.seq, label
        take.mix.mix = mix
        take.nudge.set()


class Registry:
    """All browser sessions, by the name that Gradio gives each."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._lives: OrderedDict[str, Live] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lives)

    def __iter__(self) -> Iterator[Live]:
        with self._lock:
            return iter(list(self._lives.values()))

    def live(self, key: str) -> Live:
        """The browser session of that name, new or known."""
        with self._lock:
            live = self._lives.setdefault(key, Live())
            self._lives.move_to_end(key)
            self._forget(keep=live)
            return live

    def find(self, key: str) -> Live | None:
        with self._lock:
            return self._lives.get(key)

    def drop(self, key: str) -> None:
        """The browser session has ended."""
        with self._lock:
            live = self._lives.pop(key, None)
        if live is not None:
            live.close()

    def _forget(self, keep: Live) -> None:
        excess = len(self._lives) - self._capacity
        if excess > 0:
            idle = [name for name, live in self._lives.items() if not live.busy and live is not keep]
            for name in idle[:excess]:
                del self._lives[name]
