"""All stages of a formula in one call: text -> tokens -> tree -> checked -> bound. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from mixer.formula.bind import BoundFormula, Vocabulary, bind
from mixer.formula.check import Report, check
from mixer.formula.parser import parse


@dataclass(frozen=True)
class CompiledFormula:
    """A formula that is ready to be evaluated.

    Attributes:
        bound: the formula with its branches.
        report: its weight S, and the exponent of every summand.
    """

    bound: BoundFormula
    report: Report

    def __str__(self) -> str:
        return str(self.bound.formula)


def compile_formula(text: str, vocabulary: Vocabulary) -> CompiledFormula:
    """Parse, check and bind a formula.

    Raises:
        FormulaError: the text is no formula, its parts do not fit together, or a name is unknown. The error says where.
    """
    formula = parse(text)
    report = check(formula)
    return CompiledFormula(bind(formula, vocabulary), report)
