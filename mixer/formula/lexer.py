"""The words of a formula's text: numbers, names, quoted texts and signs, each with its place.

Standard library only. Knows no grammar and no meaning.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mixer.errors import FormulaError
from mixer.formula.tree import IDENTIFIER, Span

LONGEST = 4_000  # characters of a formula
LONGEST_TEXT = 1_000  # characters of a quoted text
LARGEST = 1e6  # number

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
ALIKE |= dict.fromkeys("“”„«»", '"') | dict.fromkeys("‘’‚`´", "'")  # what word processors make of signs


class Token(NamedTuple):
    """A word of the text; `value` is a number, or the text that quotes hold."""

    kind: str  # number, name, text, lora, end, or the sign itself
    written: str
    span: Span
    value: float | str = 0.0


def tokenize(source: str) -> list[Token]:
    """The words of a formula, and one of kind "end", which lies behind the last.

    Raises:
        FormulaError: the text is too long, a sign does not belong to the language, a quoted text is not closed or too
            long, or a number is too large.
    """
    if len(source) > LONGEST:
        message = f"The formula has {len(source):,} characters, and {LONGEST:,} is the most."
        raise FormulaError(message, "Shorten it.", source[:LONGEST], LONGEST - 1, LONGEST)
    found, at, end = [], 0, 0
    while at < len(source):
        match = WORD.match(source, at)
        if match is None:
            raise _stranger(source, at)
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
    """What a quoted text holds, its escapes resolved as JSON does."""

    def resolve(escape: re.Match[str]) -> str:
        code, letter = escape.groups()
        if code is None and letter not in ESCAPES:
            start = match.start() + 1 + escape.start()
            message = f"\\{letter} means nothing inside quotes." if letter != "u" else "\\u needs four hex digits."
            raise FormulaError(message, r"Write \\ for a backslash, \n for a new line.", source, start, start + 2)
        return ESCAPES[letter] if code is None else chr(int(code, 16))

    text = ESCAPE.sub(resolve, match[0][1:-1])
    try:  # two halves of a letter beyond U+FFFF become one
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        message = "The quotes hold half a letter, which no tokenizer reads."
        raise FormulaError(message, "Write the letter itself.", source, *match.span()) from None
    if len(text) > LONGEST_TEXT:
        message = f"The text has {len(text):,} characters, and {LONGEST_TEXT:,} is the most."
        raise FormulaError(message, "Shorten it.", source, *match.span())
    return text


def _stranger(source: str, at: int) -> FormulaError:
    """The error for what begins no word."""
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
