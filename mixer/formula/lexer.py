"""First stage of a formula (text -> tokens): numbers, names, quoted texts and signs, each with its place in the text.

Standard library only. This module does not know the grammar or what a token means.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mixer.errors import FormulaError
from mixer.formula.tree import IDENTIFIER, Span

LONGEST = 4_000  # most characters of a formula
LONGEST_TEXT = 1_000  # most characters of a quoted text
LARGEST = 1e6  # largest number

WORD = re.compile(
    rf"""
    (?P<space> (?: \s | \#[^\n]* )+ )
    | (?P<number> (?: [0-9]+ (?:\.[0-9]*)? | \.[0-9]+ ) (?: [eE][+-]?[0-9]+ )? )
    | (?P<name> {IDENTIFIER} )
    | (?P<text> " (?: [^"\\\n] | \\[^\n] )* " | ' (?: [^'\\\n] | \\[^\n] )* ' )
    | (?P<lora> <lora: [^<>\n]* > )
    | (?P<sign> [-+*/@()\[\],;=] )
    """,
    re.VERBOSE,
)
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\", '"': '"', "'": "'"}
ALIKE = {"−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", ":": "/", "{": "(", "}": ")"}
ALIKE |= dict.fromkeys("“”„«»", '"') | dict.fromkeys("‘’‚`´", "'")  # typographic quotes, as word processors write them


class Token(NamedTuple):
    """One token.

    Attributes:
        kind: "number", "name", "text" (quoted), "lora", "end", or the sign itself.
        written: how the source writes it.
        span: its place in the source.
        value: of a number the number, of a quoted text what the quotes hold, else `written`.
    """

    kind: str
    written: str
    span: Span
    value: float | str = 0.0


def tokenize(source: str) -> list[Token]:
    """The tokens of a formula, followed by a token of kind "end".

    Raises:
        FormulaError: the text is too long, a sign does not belong to the language, a quoted text is too long,
            not closed or has an unknown escape, or a number is too large.
    """
    if len(source) > LONGEST:
        message = f"The formula has {len(source):,} characters, and {LONGEST:,} is the most."
        raise FormulaError(message, "Shorten it.", source[:LONGEST], LONGEST - 1, LONGEST)
    found, at, end = [], 0, 0
    while at < len(source):
        match = WORD.match(source, at)
        if match is None:
            raise _no_token(source, at)
        start, at = match.span()
        kind, written = str(match.lastgroup), match[0]
        if kind != "space":
            value = _number(source, match) if kind == "number" else _text(source, match) if kind == "text" else written
            found.append(Token(written if kind == "sign" else kind, written, (start, at), value))
            end = at
    return [*found, Token("end", "", (end, end))]


def _number(source: str, match: re.Match[str]) -> float:
    value = float(match[0])
    if value > LARGEST:
        shown = match[0] if len(match[0]) <= 20 else f"{match[0][:20]}..."
        raise FormulaError(
            f"{shown} is too large: {LARGEST:,.0f} is the most.",
            "Only the ratio of the weights counts, so scale all of them down.",
            source,
            *match.span(),
        )
    return value


def _text(source: str, match: re.Match[str]) -> str:
    """The content of a quoted text. Escapes are resolved as in JSON."""

    def resolve(escape: re.Match[str]) -> str:
        code, letter = escape.groups()
        if code is None and letter not in ESCAPES:
            start = match.start() + 1 + escape.start()
            message = f"\\{letter} means nothing inside quotes." if letter != "u" else "\\u needs four hex digits."
            raise FormulaError(message, r"Write \\ for a backslash, \n for a new line.", source, start, start + 2)
        return ESCAPES[letter] if code is None else chr(int(code, 16))

    text = ESCAPE.sub(resolve, match[0][1:-1])
    try:  # join surrogate pairs: two escapes for one letter beyond U+FFFF
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        message = "The quotes hold half a letter, which no tokenizer reads."
        raise FormulaError(message, "Write the letter itself.", source, *match.span()) from None
    if len(text) > LONGEST_TEXT:
        message = f"The text has {len(text):,} characters, and {LONGEST_TEXT:,} is the most."
        raise FormulaError(message, "Shorten it.", source, *match.span())
    return text


def _no_token(source: str, at: int) -> FormulaError:
    """The error for a character that cannot begin a token."""
    sign = source[at]
    line_end = source.find("\n", at) if "\n" in source[at:] else len(source)
    if sign in "\"'":
        message, hint = "The text that begins here is not closed.", f"Put a {sign} at its end, and \\n for a new line."
        return FormulaError(message, hint, source, at, line_end)
    message, hint = f"{sign!r} has no meaning in a formula.", "Names of other signs than letters go in quotes."
    if sign in ALIKE:
        hint = f"Write {ALIKE[sign]} instead."
    elif sign == "<":
        message, hint = "This is no <lora:name:weight>.", "An example is <lora:formal:0.7>."
        return FormulaError(message, hint, source, at, line_end)
    elif sign == "^":
        hint = "A term's exponent is its factor: 2 * formal."
    return FormulaError(message, hint, source, at, at + 1)
