"""How a formula and the sliders depend on each other, and what the page shows of a formula.

A plain weight mix, such as `[0.7*formal + 0.3*polite]`, *is* a position of the sliders: its text moves the sliders, and
a slider that moves rewrites its numbers. Functions over text and syntax tree; knows neither Gradio nor a running text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mixer.errors import FormulaError
from mixer.formula.bind import Vocabulary
from mixer.formula.compile import CompiledFormula
from mixer.formula.lexer import tokenize
from mixer.formula.tree import Formula, Term, named, number
from mixer.ui.state.controls import LIMIT
from mixer.values.mix import POLES

# How the sliders act on a formula. mix: it is a position of the sliders; sliders: it names them; none: not at all.
Tie = Literal["mix", "sliders", "none"]
DEFAULT = "sliders"
SHORT = 60  # characters of a formula in a title


@dataclass(frozen=True)
class Recipe:
    """What the mixed text is written by.

    Attributes:
        formula: as text; None if the text is written by the sliders alone.
        title: the formula in short, on one line; empty if the text is written by the sliders alone.
        tie: how the sliders act on it.
        positions: the slider positions of a weight mix; None for any other formula.
        compiled: the formula as it was compiled when it was checked; another process compiles the text again.
    """

    formula: str | None = None
    title: str = ""
    tie: Tie = "sliders"
    positions: Mapping[str, float] | None = None
    compiled: CompiledFormula | None = None


def recipe(compiled: CompiledFormula, vocabulary: Vocabulary) -> Recipe:
    """The recipe of a formula."""
    bound = compiled.bound
    positions = positions_of(bound.formula, vocabulary)
    if positions is not None:
        return Recipe(tie="mix", positions=positions)
    if str(bound.formula) == DEFAULT:
        return Recipe()
    rows = [*bound.branches, *(bound.draft.branches if bound.draft else ())]
    text = str(bound.formula.result)
    title = text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
    tie: Tie = "sliders" if any(row.follows for row in rows) else "none"
    return Recipe(bound.formula.source, title, tie, compiled=compiled)


def positions_of(formula: Formula, vocabulary: Vocabulary) -> Mapping[str, float] | None:
    """The slider positions, attribute -> position, that a weight mix stands for; those at rest are left out.

    None unless the formula is one term of anchors and attributes, each attribute once, within the deck's limit. A
    negative share of a pole is no position, since a slider below 0 is the other pole.
    """
    term = formula.result
    if formula.definitions or not isinstance(term, Term) or term.prompt is not None or term.model is not None:
        return None
    meanings, found = _meanings(vocabulary), dict[str, float]()
    for part in term.mix:
        if part.name == "sliders":
            return None
        attribute, side = meanings[part.name]
        if attribute in found or abs(part.weight) > LIMIT or (part.weight < 0 and part.name != attribute):
            return None
        if attribute:
            found[attribute] = part.weight * side
    return {attribute: position for attribute, position in found.items() if position}


def rewrite(formula: Formula, vocabulary: Vocabulary, positions: Mapping[str, float]) -> str:
    """The text of a plain weight mix with the sliders moved to `positions`.

    Names, order and layout stay, and so do the numbers that did not change. An attribute that comes to rest is removed,
    one that leaves rest is added at the end. With everything at rest the text is `[base]`.
    """
    source, term = formula.source, formula.result
    former = positions_of(formula, vocabulary)
    added = {attribute: position for attribute, position in positions.items() if position}  # less what is in the text
    if former is None or not isinstance(term, Term) or former == added:
        return source

    start, stop = term.span
    bracketed = source[start] == "["
    ends = [start + bracketed, *(part.span[1] for part in term.mix)]
    gaps = [source[end : part.span[0]] for end, part in zip(ends, term.mix, strict=False)]  # before each part
    closing = source[ends[-1] : stop - bracketed]
    meanings, text = _meanings(vocabulary), ""
    for part, gap in zip(term.mix, gaps, strict=True):
        attribute, _ = meanings[part.name]
        position = added.pop(attribute, 0.0)
        if attribute and position != former.get(attribute, 0.0):
            if position:
                share, negative = _share(attribute, position, part.name, vocabulary, meanings)
                text += _signed(gap if text else gaps[0], bool(text), negative) + share
        elif former or not added:  # [base] alone is replaced by what is added
            text += (gap if text else _signed(gaps[0], False, _sign(gap) == "-")) + source[slice(*part.span)]
    for attribute, position in added.items():
        share, negative = _share(attribute, position, "", vocabulary, meanings)
        text += _signed("" if text else gaps[0], bool(text), negative) + share
    text = text or _signed(gaps[0], False, False) + "base"
    return f"{source[:start]}[{text}{closing}]{source[stop:]}"


def _meanings(vocabulary: Vocabulary) -> dict[str, tuple[str, float]]:
    """Name in brackets -> its attribute, and the sign of the position for a positive share; `base` has no attribute."""
    found = {}
    for name, mix in vocabulary.mixes.items():
        attribute, _, pole = next(iter(mix.weights), "").rpartition(".")
        found[name] = (attribute, -1.0 if pole == "negative" else 1.0)
    return found


def _share(
    attribute: str, position: float, former: str, vocabulary: Vocabulary, meanings: Mapping[str, tuple[str, float]]
) -> tuple[str, bool]:
    """A position as text in brackets, and whether a minus belongs before it.

    It has a name of the same kind as `former`, or else the pole's label; two decimals, unless that changes the number.
    """
    size, side = abs(position), position > 0
    amount = f"{size:.2f}" if float(f"{size:.2f}") == size else number(size)
    if former == attribute:
        return f"{amount}*{named(attribute)}", not side
    name = vocabulary.attributes[attribute].labels[side]
    anchors = [f"{attribute}.{pole}" for pole in POLES]
    if former in anchors or name == "sliders" or meanings[name] != (attribute, 1.0 if side else -1.0):
        name = anchors[side]
    return f"{amount}*{named(name)}", False


def _sign(gap: str) -> str:
    """The plus or minus in the text between two parts; empty if there is none."""
    return next((token.kind for token in tokenize(gap) if token.kind in ("+", "-")), "")


def _signed(gap: str, after: bool, negative: bool) -> str:
    """The text before a part, with the sign that the part needs; `after`: it is not the first part."""
    sign = "-" if negative else "+" if after else ""
    for token in tokenize(gap):
        if token.kind in ("+", "-"):
            rest = gap[token.span[1] :]
            return gap[: token.span[0]] + (sign + rest if sign else rest.lstrip(" "))
    return f"{gap or ' '}{sign} " if after else gap + sign


def place(error: FormulaError, text: str) -> dict[str, str]:
    """An error in a formula for the browser: its sentence, and its line in three pieces, the middle one wrong."""
    start = error.column - 1
    stop = start + error.length
    return {
        "text": text,
        "message": error.message,
        "hint": error.hint,
        "where": f"Line {error.line}, column {error.column}",
        "before": error.text[:start],
        "place": error.text[start:stop],
        "after": error.text[stop:],
    }
