"""A cursor over a formula's tokens, and the errors for misplaced tokens. Part of the second stage (tokens -> tree).

Standard library only. This module knows the signs of the language, but none of its functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mixer.errors import FormulaError
from mixer.formula.lexer import Token, tokenize
from mixer.formula.tree import Span

DEEPEST = 40  # levels of nesting, counting brackets and definitions
PROMPT = "A prompt stands behind a model and '@', as in [sliders] @ \"text\"."
HINTS = {  # sign that cannot follow a complete expression -> hint
    ")": "Take it out, or put a '(' where it begins.",
    "]": "Take it out, or put a '[' where it begins.",
    ",": "Commas stand between the arguments of a function; terms are added with +.",
    "=": "A definition is a name, '=', a formula and ';', and stands at the beginning.",
    ";": "In front of ';' stands a definition, such as a = formal;.",
    "@": PROMPT,
}
HINTS |= dict.fromkeys("+-*/", "Close the bracket in front of it first.")


class Cursor:
    """Reads a formula's tokens one by one.

    Attributes:
        place: index of the next token.
        level: how many brackets, arguments and minus signs are open.
        definitions: each name that the formula has defined so far -> the depth of its tree.
    """

    def __init__(self, source: str) -> None:
        self.source, self.tokens = source, tokenize(source)
        self.place, self.level = 0, 0
        self.definitions: dict[str, int] = {}

    @property
    def token(self) -> Token:
        """The next token. The cursor does not move."""
        return self.tokens[self.place]

    def next(self) -> Token:
        """The next token. The cursor moves past it, unless it is the end."""
        token = self.token
        self.place += token.kind != "end"
        return token

    def names_next(self) -> bool:
        """Whether a name and '=' come next."""
        return self.token.kind == "name" and self.tokens[self.place + 1].kind == "="

    def close(self, opening: Token, closing: str) -> int:
        """Move past the closing bracket that belongs to `opening`; return the offset of its end."""
        if self.token.kind == closing:
            return self.next().span[1]
        if self.token.kind in ("end", ";", ")", "]"):
            message = f"This {opening.written!r} is not closed."
            raise self.error(message, f"Put a {closing!r} where it ends.", opening.span)
        raise self.unexpected()

    @contextmanager
    def nested(self) -> Iterator[None]:
        """A context that is one level deeper. Raises a `FormulaError` beyond `DEEPEST` levels."""
        self.level += 1
        if self.level > DEEPEST:
            raise self.too_deep(self.token.span)
        yield
        self.level -= 1

    def error(self, message: str, hint: str, span: Span) -> FormulaError:
        return FormulaError(message, hint, self.source, *span)

    def too_deep(self, span: Span) -> FormulaError:
        return self.error(f"The formula is nested more than {DEEPEST} deep.", "Write it flatter.", span)

    def missing(self) -> FormulaError:
        """The error where an expression is expected, and the next token cannot begin one."""
        token, before = self.token, self.tokens[self.place - 1].written[:40] if self.place else ""
        if token.kind == "text":
            return self.error("A text in quotes cannot stand here.", PROMPT, token.span)
        hint = "Write a term, such as sliders, formal or [0.5*polite]."
        if token.kind == "end":
            return self.error(f"Behind {before!r} something is missing.", hint, token.span)
        if before in ("", ";"):
            return self.error(f"{token.written!r} cannot begin a formula.", hint, token.span)
        return self.error(f"Between {before!r} and {token.written!r} something is missing.", hint, token.span)

    def unexpected(self) -> FormulaError:
        """The error where an expression is complete, and the next token cannot follow it."""
        token, before = self.token, self.tokens[self.place - 1]
        shown, former = token.written[:40], before.written[:40]
        if token.kind in HINTS:
            message = f"This {shown!r} closes nothing." if shown in ")]" else f"{shown!r} cannot stand here."
            return self.error(message, HINTS[token.kind], token.span)
        hint = "Put +, - or * between them."
        if token.kind == "text":
            hint = PROMPT
        elif before.kind == "number":
            hint = f"To multiply, write {former} * {shown}."
        message = f"Between {former!r} and {shown!r} a sign is missing."
        return self.error(message, hint, (before.span[0], token.span[1]))
