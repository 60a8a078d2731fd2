"""Third stage of a formula (tree -> checked): it checks the tree and makes the report that a person reads beside it.

The report says what the weights add up to. Standard library only. This module does not know what names stand for, and
uses no tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mixer.formula import functions as fn
from mixer.formula.analysis import MASK, ONE, SCALAR, Analyzer, Interval
from mixer.formula.tree import Expr, Formula, Neg, Product, Quotient, Ref, Sum, Term, named

SHARP = 5.0  # warn if a small sum of weights raises probabilities to a higher power than this


@dataclass(frozen=True)
class Summand:
    """One summand of a formula.

    Attributes:
        node: the expression without its factor; it knows its place in the source. `text` is how it is written.
        factor: its factor f_i; None if f_i depends on the text being written.
        exponent: f_i / S, the power of its probabilities in the result; None if f_i or S depends on that text.
    """

    node: Expr
    factor: float | None
    exponent: float | None

    @property
    def text(self) -> str:
        return str(self.node)


@dataclass(frozen=True)
class Report:
    """What is known of a formula that passed the check.

    Attributes:
        weight: S, the sum of the weights; None if it depends on the text being written.
        summands: the summands of the result, also those inside brackets. A name that the formula defines counts as
            one.
        warnings: one sentence each.
    """

    weight: float | None
    summands: tuple[Summand, ...]
    warnings: tuple[str, ...]


def check(formula: Formula) -> Report:
    """Check a formula, and the draft that `supersede` makes of it.

    Raises:
        FormulaError: an expression stands where it is not allowed, weights are certain to add up to 0 or less, or an
            argument is out of range.
    """
    analyzer = Analyzer(formula)
    weight = analyzer.analyze_formula("formula").weight.point
    if (draft := fn.drafted(formula)) != formula:
        Analyzer(draft).analyze_formula("draft")
    summands = tuple(
        Summand(node, factor.point, factor.point / weight if weight and factor.point is not None else None)
        for node, factor in _summands(analyzer, formula.result, ONE)
    )
    return Report(weight, summands, tuple(_warnings(formula, weight, summands)))


def _summands(analyzer: Analyzer, node: Expr, factor: Interval) -> Iterator[tuple[Expr, Interval]]:
    """The summands of a vector, each with its factor. A mask stays in the summand that it multiplies."""
    match node:
        case Sum(parts):
            for part in parts:
                yield from _summands(analyzer, part, factor)
        case Neg(value):
            yield from _summands(analyzer, value, factor.times(Interval(-1, -1)))
        case Quotient(value, divisor):
            yield from _summands(analyzer, value, factor.times(Interval(1 / divisor, 1 / divisor)))
        case Product(factors):
            kinds = [analyzer.analyze(one).kind for one in factors]
            for one, kind in zip(factors, kinds, strict=True):
                if kind == SCALAR:
                    factor = factor.times(analyzer.analyze(one).weight)
            rest = tuple(one for one, kind in zip(factors, kinds, strict=True) if kind != SCALAR)
            if MASK in kinds:
                yield Product(rest, span=node.span), factor
            else:
                yield from _summands(analyzer, rest[0], factor)
        case fn.Supersede(_, target):
            yield from _summands(analyzer, target, factor)
        case fn.Ban():
            pass
        case _:
            yield node, factor


def _warnings(formula: Formula, weight: float | None, summands: Sequence[Summand]) -> Iterator[str]:
    if weight and 1 / weight > SHARP and any(abs(one.exponent or 0) > SHARP for one in summands):
        yield (
            f"The weights add up to only {weight:.4g}, and dividing by that makes the formula sharp: p to the power of "
            f"{1 / weight:.4g}."
        )
    definitions, used = dict(formula.definitions), set[str]()
    waiting = [formula.result]
    while waiting:
        node = waiting.pop()
        waiting += reversed(node.children)
        if isinstance(node, Ref) and node.name not in used:
            used.add(node.name)
            waiting.append(definitions[node.name])
        if isinstance(node, Term):
            yield from (
                f"{named(part.name)} has the weight 0 in {node} and does nothing."
                for part in node.mix
                if not part.weight
            )
    yield from (f"{name} is defined and not used." for name in definitions if name not in used)
