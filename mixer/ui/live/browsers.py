"""Who is streaming: one `BrowserSession` per browser session, holding its newest move and its running take.

The engine's sessions live here and not in the page's state, which Gradio copies and sends about. Two browser sessions
never share a `BrowserSession`. Knows nothing of Gradio.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from mixer.errors import InvalidValue
from mixer.ui.state.controls import DeckValue, describe

if TYPE_CHECKING:
    from mixer.decoding.session import Session
    from mixer.decoding.steps import Step
    from mixer.values.mix import Mix
    from mixer.values.steering import Steering

LATER = "The sliders count from your next Generate on."
RECENT = 10  # tokens that the meter of the budget looks back on
CAPACITY = 1000  # a client may invent as many session names as it likes; the oldest idle ones are forgotten


class RunningTake(Protocol):
    """What a `BrowserSession` steers: a take of this process, or a line to one that another process writes."""

    def note(self, value: DeckValue, mix: Mix) -> None: ...
    def apply(self, value: DeckValue, mix: Mix) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


@dataclass(eq=False)
class Take:
    """One press of Generate: the base row and the row that the sliders steer."""

    base: Session
    mix: Session
    follows: bool = True  # whether the anchors' sliders act on its formula
    stopped: bool = False
    refused: str = ""  # why part of the newest move has to wait for the next take
    nats: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # spent by its last tokens
    nudge: threading.Event = field(default_factory=threading.Event)  # set: write the next token without waiting
    _moves: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)  # mix, steering -> sequence, in words

    def note(self, value: DeckValue, mix: Mix) -> None:
        """Keep which move it was that set this mix and the steering now in force."""
        steering = self.mix.steering
        words = describe(value.positions if self.follows else {}, steering, value.decouple)
        self._moves[mix.key, str(steering)] = value.seq, words if self.follows or steering.heads else ""

    def move(self, step: Step) -> tuple[int, str] | None:
        """The newest move that a step just drawn is under, and it in words; None halfway through one."""
        return self._moves.get((step.mix_key, str(self.mix.applied_steering)))

    def apply(self, value: DeckValue, mix: Mix) -> None:
        """Moves the row that the sliders steer."""
        self.refused = _steer(self.mix, value.steering)
        self.note(value, mix)
        self.mix.mix = mix
        self.nudge.set()

    def stop(self) -> None:
        """Ends the take at its next token; from any thread."""
        self.stopped = True
        self.nudge.set()

    def close(self) -> None:
        """Gives its rows back at once."""
        self.stop()
        self.base.close()
        self.mix.close()


class BrowserSession:
    """One browser session's part of the desk; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = DeckValue()
        self._take: RunningTake | None = None
        self._jobs: dict[str, threading.Event] = {}

    @property
    def value(self) -> DeckValue:
        """The newest deck value seen."""
        return self._value

    @property
    def busy(self) -> bool:
        return self._take is not None

    def steer(self, value: DeckValue, mix: Mix) -> bool:
        """Takes a deck move over into the running take, unless a newer move came before it."""
        with self._lock:
            if value.seq <= self._value.seq:
                return False
            self._value = value
            if self._take is not None:
                self._take.apply(value, mix)
            return True

    def begin(self, take: RunningTake, value: DeckValue, mix: Mix) -> DeckValue | None:
        """Makes `take` the one that sliders steer; a take still running is stopped.

        Returns:
            None; or the newer deck value that arrived while the take was being made: steer to it.
        """
        with self._lock:
            if self._take is not None:
                self._take.stop()
            self._take = take
            take.note(value, mix)
            if value.seq < self._value.seq:
                return self._value
            self._value = value
            return None

    def follow(self, take: RunningTake, value: DeckValue, mix: Mix) -> None:
        """Moves a take that began with an older deck value."""
        with self._lock:
            if self._take is take and value.seq >= self._value.seq:
                take.apply(value, mix)

    def end(self, take: RunningTake) -> None:
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

    def job(self, name: str) -> threading.Event:
        """A flag for work beside the take, set when it is to end: by `cancel`, or a newer job of its name."""
        with self._lock:
            if name in self._jobs:
                self._jobs[name].set()
            flag = self._jobs[name] = threading.Event()
            return flag

    def cancel(self, name: str) -> None:
        """Ends the job of that name, if there is one."""
        with self._lock:
            if name in self._jobs:
                self._jobs[name].set()

    def close(self) -> None:
        """Ends everything and gives the rows back: the browser has gone."""
        with self._lock:
            take, self._take = self._take, None
            for flag in self._jobs.values():
                flag.set()
        if take is not None:
            take.close()


def _steer(session: Session, steering: Steering) -> str:
    """Sets a text's steering, or as much of it as a text already begun can take; why not all of it."""
    if steering == session.steering:
        return ""
    try:
        session.steering = steering
    except InvalidValue as error:
        if not steering.whole:
            return str(error)
        return _steer(session, replace(steering, whole=False)) or LATER
    return ""


class BrowserSessions:
    """All browser sessions, by the name that Gradio gives each."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._lives: OrderedDict[str, BrowserSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lives)

    def __iter__(self) -> Iterator[BrowserSession]:
        with self._lock:
            return iter(list(self._lives.values()))

    def live(self, key: str) -> BrowserSession:
        """The browser session of that name, new or known."""
        with self._lock:
            live = self._lives.setdefault(key, BrowserSession())
            self._lives.move_to_end(key)
            self._forget(keep=live)
            return live

    def find(self, key: str) -> BrowserSession | None:
        with self._lock:
            return self._lives.get(key)

    def drop(self, key: str) -> None:
        """The browser session has ended."""
        with self._lock:
            live = self._lives.pop(key, None)
        if live is not None:
            live.close()

    def _forget(self, keep: BrowserSession) -> None:
        excess = len(self._lives) - self._capacity
        if excess > 0:
            idle = [name for name, live in self._lives.items() if not live.busy and live is not keep]
            for name in idle[:excess]:
                del self._lives[name]
