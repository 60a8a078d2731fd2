"""Errors that people read: what was wrong, where, and what to do about it.

Standard library only; knows nothing of models, files or pages.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MixerError(Exception):
    """Root of everything this package raises on purpose.

    Args:
        message: what was wrong, in one sentence, naming the offending value.
        hint: what the reader can do about it, in one sentence.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InvalidValue(MixerError):
    """A number, text or option outside what it may be."""


class UnknownName(MixerError):
    """A name that is not among the known ones; the hint lists the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        if near:
            hint = f"Did you mean {' or '.join(near)}?"
        elif known:
            hint = f"Known: {', '.join(known)}."
        else:
            hint = "None is loaded."
        super().__init__(f"There is no {kind} called {name[:80]!r}.", hint)
        self.name = name


class BadArtifact(MixerError):
    """A file or folder that is missing, corrupt, or not what it should be."""


class Unsupported(MixerError):
    """A sound request that this program does not serve, with the reason."""


class Busy(MixerError):
    """A sound request that there is no room for at this moment."""
