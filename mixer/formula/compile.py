"""From a formula's text to what can be computed: read, checked, and with all its names known. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from mixer.formula.bind import BoundFormula, Vocabulary, bind
from mixer.formula.check import Report, check
from mixer.formula.parser import parse


@dataclass(frozen=True)
class CompiledFormula:
    """A formula that is ready.

    Attributes:
        bound: the formula with its branches.
        report: its weight S, and every summand's exponent.
    """

    bound: BoundFormula
    report: Report

    def __str__(self) -> str:
        return str(self.bound.formula)


def compile_formula(text: str, vocabulary: Vocabulary) -> CompiledFormula:
    """Read a formula.

    Raises:
        FormulaError: it cannot be read, its parts do not fit, or a name is not known; with the place.
    """
    formula = parse(text)
    report = check(formula)
    return CompiledFormula(bind(formula, vocabulary), report)
