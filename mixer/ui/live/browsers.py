"""One `BrowserSession` for each session of a browser: it holds the newest move of the deck and the running take.

The desk's sessions are kept here and not in the page's state, which Gradio copies and sends. Two browser sessions never
share a `BrowserSession`. Knows nothing of Gradio.
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
RECENT = 10  # tokens over which the spent budget is averaged
CAPACITY = 1000  # a client may invent any number of session names, so the oldest idle ones are forgotten


class RunningTake(Protocol):
    """What a `BrowserSession` steers: a take of this process, or a `RemoteTake` that another process writes."""

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
    refused: str = ""  # why a part of the newest move has to wait for the next take
    nats: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # spent by its last tokens
    nudge: threading.Event = field(default_factory=threading.Event)  # set: write the next token without waiting
    # Key of the mix, key of the steering -> sequence number of the move that set them, and the sliders in words.
    _moves: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def note(self, value: DeckValue, mix: Mix) -> None:
        """Remembers which move set this mix and the steering that is now in force."""
        steering = self.mix.steering
        words = describe(value.positions if self.follows else {}, steering, value.decouple)
        self._moves[mix.key, steering.key] = value.seq, words if self.follows or steering.heads else ""

    def move(self, step: Step) -> tuple[int, str] | None:
        """Sequence number and words of the newest move that the last step was drawn under.

        None if only a part of a move was in force, such as the new mix with the former steering.
        """
        return self._moves.get((step.mix_key, self.mix.applied_steering.key))

    def apply(self, value: DeckValue, mix: Mix) -> None:
        """Gives the steered row a new mix and a new steering."""
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
    """What one browser session has running on the desk; every method may be called from any thread."""

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
        """Applies a move of the deck to the running take. False, and no effect, if a newer move came before it."""
        with self._lock:
            if value.seq <= self._value.seq:
                return False
            self._value = value
            if self._take is not None:
                self._take.apply(value, mix)
            return True

    def begin(self, take: RunningTake, value: DeckValue, mix: Mix) -> DeckValue | None:
        """Makes `take` the one that the sliders steer; a take that still runs is stopped.

        Returns:
            The deck value that arrived while the take was being made, for `follow`; None if there is none.
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
        """Applies a deck value to a take that began with an older one."""
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
        """A flag for a panel's job. It is set when the job is to end: by `cancel`, or by a newer job of that name."""
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
        """Ends take and jobs, and gives the rows back: the browser has left."""
        with self._lock:
            take, self._take = self._take, None
            for flag in self._jobs.values():
                flag.set()
        if take is not None:
            take.close()


def _steer(session: Session, steering: Steering) -> str:
    """Sets the steering of a text, or as much of it as a text that has begun can take.

    Returns:
        Why not all of it was set; empty if all of it was.
    """
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
        self._sessions: OrderedDict[str, BrowserSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[BrowserSession]:
        with self._lock:
            return iter(list(self._sessions.values()))

    def open(self, key: str) -> BrowserSession:
        """The browser session of that name; a new one if there is none."""
        with self._lock:
            browser = self._sessions.setdefault(key, BrowserSession())
            self._sessions.move_to_end(key)
            self._forget(keep=browser)
            return browser

    def find(self, key: str) -> BrowserSession | None:
        with self._lock:
            return self._sessions.get(key)

    def drop(self, key: str) -> None:
        """Ends and forgets a browser session."""
        with self._lock:
            browser = self._sessions.pop(key, None)
        if browser is not None:
            browser.close()

    def _forget(self, keep: BrowserSession) -> None:
        excess = len(self._sessions) - self._capacity
        if excess > 0:
            idle = [name for name, browser in self._sessions.items() if not browser.busy and browser is not keep]
            for name in idle[:excess]:
                del self._sessions[name]
