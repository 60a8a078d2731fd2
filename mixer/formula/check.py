"""What may stand where in a formula, and what its weights come to: the report that a person reads beside it.

Standard library only. Knows no names and no tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mixer.formula import functions as fn
from mixer.formula.analysis import MASK, ONE, SCALAR, Analyzer, Interval
from mixer.formula.tree import Expr, Formula, Neg, Product, Quotient, Ref, Sum, Term, named

SHARP = 5.0  # a power of p that deserves a warning, where a small sum of weights makes it


@dataclass(frozen=True)
class Summand:
    """One summand of a formula.

    Attributes:
        node: what is multiplied, with its place; `text` is how it is written.
        factor: f_i; None where it depends on the text.
        exponent: f_i / S, the power of its probabilities in the result; None where one of the two depends on the text.
    """

    node: Expr
    factor: float | None
    exponent: float | None

    @property
    def text(self) -> str:
        return str(self.node)


@dataclass(frozen=True)
class Report:
    """What is known of a formula that is sound.

    Attributes:
        weight: S, the sum of the weights; None where it depends on the text.
        summands: of the result, those in brackets included; a name that the formula defines is one summand.
        warnings: one sentence each.
    """

    weight: float | None
    summands: tuple[Summand, ...]
    warnings: tuple[str, ...]


def check(formula: Formula) -> Report:
    """Look whether everything stands where it may.

    Raises:
        FormulaError: it does not; weights add up to 0 or less wherever that is certain; an argument is out of range.
            The draft that `supersede` makes of a formula is looked at too.
    """
    analyzer = Analyzer(formula)
    weight = analyzer.whole("formula").weight.point
    if (draft := fn.drafted(formula)) != formula:
        Analyzer(draft).whole("draft")
    summands = tuple(
        Summand(node, factor.point, factor.point / weight if weight and factor.point is not None else None)
        for node, factor in _summands(analyzer, formula.result, ONE)
    )
    return Report(weight, summands, tuple(_warnings(formula, weight, summands)))


def _summands(analyzer: Analyzer, node: Expr, factor: Interval) -> Iterator[tuple[Expr, Interval]]:
    """What a vector adds up, and each one's factor; masks stay with what they are multiplied with."""
    match node:
        case Sum(parts):
            for part in parts:
                yield from _summands(analyzer, part, factor)
        case Neg(value):
            yield from _summands(analyzer, value, factor.times(Interval(-1, -1)))
        case Quotient(value, divisor):
            yield from _summands(analyzer, value, factor.times(Interval(1 / divisor, 1 / divisor)))
        case Product(factors):
            kinds = [analyzer.analysis_of(one).kind for one in factors]
            for one, kind in zip(factors, kinds, strict=True):
                if kind == SCALAR:
                    factor = factor.times(analyzer.analysis_of(one).weight)
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
