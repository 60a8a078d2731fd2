"""Errors that people read: what was wrong, where, and what to do about it.

Standard library only. This module knows no models, files or pages.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MixerError(Exception):
    """The base class of all errors that this package raises on purpose.

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
    """A number, text or option that is not allowed."""


class UnknownName(MixerError):
    """A name that is not among the known names. The hint lists the nearest of them, or all if none is near."""

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


class FormulaError(MixerError):
    """A formula that cannot be read or computed. The error says where in the text.

    Args:
        source: the formula's text.
        start, stop: offsets of the offending characters in it.

    Attributes:
        line, column: place of the first offending character, counted from 1.
        text: that line.
        length: how many characters of that line offend, at least 1.
    """

    def __init__(self, message: str, hint: str, source: str, start: int, stop: int) -> None:
        super().__init__(message, hint)
        before = source[:start]
        self.line, self.column = before.count("\n") + 1, start - (before.rfind("\n") + 1) + 1
        self.text = source.split("\n")[self.line - 1]
        self.length = max(1, min(stop - start, len(self.text) - self.column + 1))

    @property
    def caret(self) -> str:
        """The offending line, and a line that points at the place."""
        pad = "".join("\t" if letter == "\t" else " " for letter in self.text[: self.column - 1])
        return f"{self.text}\n{pad}{'^' * self.length}"

    def __str__(self) -> str:
        return f"Line {self.line}, column {self.column}: {super().__str__()}"


class BadArtifact(MixerError):
    """A file or folder that is missing, damaged, or of another kind than expected."""


class Unsupported(MixerError):
    """A valid request that this program does not support. The message gives the reason."""


class Busy(MixerError):
    """A valid request for which there is no room at the moment."""
