"""The analysis behind the third stage (tree -> checked): each expression's kind, its weight, and where it may be -inf.

An expression is a number, a mask (a number for each token) or a vector (a weighted sum of log-probabilities). A vector
is a distribution if its weight is above 0. A weight is known as an interval. The interval is a single point, except
where the weight depends on a judge's strength, a mask or a choice between unequal weights. Then the analysis refuses
only what is certain to fail; `mixer.decoding.evaluate` refuses the rest when it happens.

Standard library only. This module does not know what names stand for, and uses no tensors.

Source: Dekoninck et al., "Controlled Text Generation via Language Model Arithmetic", arXiv 2311.14479.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

from mixer.errors import FormulaError
from mixer.formula import functions as fn
from mixer.formula.lexer import LARGEST
from mixer.formula.tree import Call, Expr, Formula, Neg, Number, Product, Quotient, Ref, Sum

TOLERANCE = 1e-6  # a sum of weights counts as 0 if it is at most this share of the sum of their absolute values
SMALLEST, GREATEST = 1e-9, 1e9  # bounds of sums of weights, so that no value overflows float32

SCALAR, MASK, VECTOR = "number", "mask", "distribution or bias"
MASKED = "Multiply it with a term, as in indicator(formal - base) * formal."
RANGES = {  # the lowest and the highest value of each number that a function takes
    fn.Top: {"k": (0, LARGEST), "p": (0, 1), "minp": (0, 1), "t": (0.0001, 10)},
    fn.KLMask: {"divergence": (0, LARGEST)},
    fn.SelfDebias: {"strength": (0, LARGEST)},
    fn.JudgeCall: {"k": (1, LARGEST), "goal": (0, 1)},
}


class Interval(NamedTuple):
    """The lowest and the highest value that a number can have."""

    low: float
    high: float

    @property
    def point(self) -> float | None:
        return self.low if self.low == self.high else None

    @property
    def size(self) -> float:
        return max(abs(self.low), abs(self.high))

    def plus(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def times(self, other: Interval) -> Interval:
        corners = [a * b for a in self for b in other]
        return Interval(min(corners), max(corners))

    def hull(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))


ZERO, ONE, SHARE = Interval(0.0, 0.0), Interval(1.0, 1.0), Interval(0.0, 1.0)


@dataclass(frozen=True)
class Analysis:
    """What is known of an expression.

    Attributes:
        kind: `SCALAR`, `MASK` or `VECTOR`.
        weight: a vector's weight; the value of a number or of a mask.
        size: an upper bound of the sum of the absolute weights.
        scale: an upper bound of the vector's total, in multiples of the log-probabilities' size.
        cut: the factor of the -inf that the vector may hold for tokens that `top` cuts off; None if it holds none.
    """

    kind: str
    weight: Interval
    size: float = 0.0
    scale: float = 0.0
    cut: Interval | None = None


UNIT = Analysis(VECTOR, ONE, 1.0, 1.0)
BIAS = Analysis(VECTOR, ZERO, 0.0, 1.0)


class Analyzer:
    """Analyzes the expressions of a formula, each once.

    Raises:
        FormulaError: an expression stands where it is not allowed. Every method that analyzes can raise it.

    Attributes:
        defined: the analysis of each definition, by name.
        known: the analysis of each node so far, by the node's `id`.
        bans: `id` of each `ban` that is a summand of the whole formula, which is its only allowed place.
    """

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.defined: dict[str, Analysis] = {}
        self.known: dict[int, Analysis] = {}
        self.bans = {id(node) for node in _highest(formula.result) if isinstance(node, fn.Ban)}

    def analyze_formula(self, what: str) -> Analysis:
        """Analyze the whole formula; return its result's analysis. `what` names the formula in an error."""
        for name, value in self.formula.definitions:
            self.defined[name] = self.analyze(value)
        return self.distribution(self.formula.result, f"the {what}")

    def analyze(self, node: Expr) -> Analysis:
        """Analyze an expression. A second call with the same node returns the same analysis."""
        if id(node) not in self.known:
            analysis = self.call(node) if isinstance(node, Call) else self.arithmetic(node)
            if max(analysis.weight.size, analysis.size, analysis.scale) > GREATEST:
                raise self.error(f"The weights here come to more than {GREATEST:,.0f}.", "Scale them down.", node)
            self.known[id(node)] = analysis
        return self.known[id(node)]

    def arithmetic(self, node: Expr) -> Analysis:
        match node:
            case Ref(name):
                if name not in self.defined:
                    raise self.error(f"{name!r} is not defined.", "Define it before it is used.", node)
                return self.defined[name]
            case Number(value):
                return Analysis(SCALAR, Interval(value, value))
            case Sum(parts):
                return self.sum(parts)
            case Neg(value):
                return self.multiplied(Interval(-1, -1), value)
            case Quotient(value, divisor):
                if not 1 / LARGEST <= abs(divisor) <= LARGEST:
                    raise self.error(f"Nothing can be divided by {divisor:g}.", "Divide by another number.", node)
                return self.multiplied(Interval(1 / divisor, 1 / divisor), value)
            case Product(factors):
                return self.product(factors)
            case _:
                return UNIT

    def call(self, node: Call) -> Analysis:
        self.arguments(node)
        match node:
            case fn.Uniform():
                return UNIT
            case fn.Union(parts) | fn.Intersect(parts):
                found = [self.distribution(part, f"this part of {node.written}") for part in parts]
                return _chosen(found, every=isinstance(node, fn.Union))
            case fn.Max(parts) | fn.Min(parts):
                return _chosen([self.vector(part) for part in parts], every=isinstance(node, fn.Max))
            case fn.Norm(value):
                return replace(UNIT, cut=self.distribution(value, "what norm makes a distribution of").cut)
            case fn.Top(value):
                self.distribution(value, "what top takes from")
                return replace(UNIT, cut=ONE)
            case fn.SelfDebias(value, biased, strength):
                self.distribution(biased, "the biased part of selfdebias")
                cut = self.distribution(value, "the first part of selfdebias").cut
                return replace(UNIT, scale=1 + strength, cut=cut)
            case fn.Pos(value):
                return replace(BIAS, scale=self.vector(value).scale)
            case fn.Abs(value):
                found = self.vector(value)
                if found.cut:
                    raise self.endless(value)
                return replace(BIAS, scale=found.scale)
            case fn.Indicator(value):
                self.vector(value)
                return Analysis(MASK, SHARE)
            case fn.KLMask(source, target):
                for value in (source, target):
                    self.distribution(value, "what klmask compares")
                return Analysis(MASK, SHARE)
            case fn.Supersede(draft, target):
                self.vector(draft)
                return self.vector(target)
            case fn.JudgeCall(over=over):
                if over is not None:
                    self.distribution(over, "what judge takes the likeliest tokens of")
                return BIAS
            case fn.Strength():
                return Analysis(SCALAR, SHARE)
            case fn.Ban() if id(node) not in self.bans:
                hint = 'Add it to the whole formula, as in sliders + ban("word").'
                raise self.error("ban stands alone among the summands of the formula.", hint, node)
            case _:  # a reward, or a ban where it is allowed
                return BIAS

    def arguments(self, node: Call) -> None:
        """Check the numbers and words among a function's arguments."""
        for name, (low, high) in RANGES.get(type(node), {}).items():
            value = getattr(node, name)
            if not low <= value <= high:  # NaN compares false
                hint = f"Give a number from {low:g} to {high:,.0f}."
                raise self.error(f"{name} of {node.written} is {value:g}, which is out of range.", hint, node)
        if isinstance(node, fn.Ban) and not all(word.strip() for word in node.words):
            raise self.error("Nothing stands in the quotes of ban.", "Put a word there.", node)

    def sum(self, parts: Sequence[Expr]) -> Analysis:
        found = [self.analyze(part) for part in parts]
        kinds = {own.kind for own in found}
        for part, own in zip(parts, found, strict=True):
            if own.kind == MASK:
                raise self.error(
                    "A mask cannot be added.", "Multiply it with a term, as in indicator(formal - base) * polite.", part
                )
            if own.kind == SCALAR and VECTOR in kinds:
                hint = "Multiply it with a term, as in 2 * uniform."
                raise self.error("A number cannot be added to a term.", hint, part)
        weight = reduce(Interval.plus, [own.weight for own in found])
        return Analysis(found[0].kind, weight, _total(found, "size"), _total(found, "scale"), _hull(found))

    def product(self, factors: Sequence[Expr]) -> Analysis:
        found = [self.analyze(factor) for factor in factors]
        vectors = [factor for factor, own in zip(factors, found, strict=True) if own.kind == VECTOR]
        if len(vectors) > 1:
            hint = "Add them: a sum of log-probabilities is a product of probabilities."
            raise self.error("Two terms cannot be multiplied.", hint, vectors[1])
        factor = ONE
        for own in found:
            if own.kind != VECTOR:
                factor = factor.times(own.weight)
                if factor.size > GREATEST:  # `analyze` refuses it; stop before it becomes infinite
                    return Analysis(SCALAR, factor)
        if vectors:
            return self.multiplied(factor, vectors[0])
        return Analysis(MASK if any(own.kind == MASK for own in found) else SCALAR, factor)

    def multiplied(self, factor: Interval, node: Expr) -> Analysis:
        """The analysis of `factor * node`."""
        found = self.analyze(node)
        weight, cut = found.weight.times(factor), found.cut and found.cut.times(factor)
        if cut == ZERO:  # 0 times anything is 0
            cut = None
        if cut and cut.high <= 0:
            raise self.endless(node)
        return Analysis(found.kind, weight, found.size * factor.size, found.scale * factor.size, cut)

    def vector(self, node: Expr) -> Analysis:
        """Analyze an expression that has to be a vector."""
        found = self.analyze(node)
        if found.kind == SCALAR:
            hint = "Multiply it with a term, as in 2 * formal."
            raise self.error("A number stands where a term has to stand.", hint, node)
        if found.kind == MASK:
            raise self.error("A mask stands where a term has to stand.", MASKED, node)
        return found

    def distribution(self, node: Expr, what: str) -> Analysis:
        """Analyze an expression that has to be a distribution. `what` names its role in an error."""
        found = self.vector(node)
        least = max(TOLERANCE * found.size, SMALLEST)
        if found.weight.high <= least:
            most = "" if found.weight.point is not None else "at most "
            weight = 0 if abs(found.weight.high) <= least else found.weight.high
            hint = "It has to be more than 0: add a term, such as base, or let what is taken away weigh less."
            raise self.error(f"The weights of {what} add up to {most}{weight:g}.", hint, node)
        return found

    def error(self, message: str, hint: str, at: Expr) -> FormulaError:
        return self.formula.error(message, hint, at)

    def endless(self, at: Expr) -> FormulaError:
        """The error where -inf would become +inf."""
        message = "What top cuts off would become infinitely likely here."
        return self.error(message, "top(...) can be added and multiplied by positive numbers.", at)


def _highest(node: Expr) -> Iterator[Expr]:
    """The summands of the whole formula: those of sums inside sums, and of the target of `supersede`."""
    if isinstance(node, Sum):
        for part in node.parts:
            yield from _highest(part)
    elif isinstance(node, fn.Supersede):
        yield from _highest(node.target)
    else:
        yield node


def _chosen(found: Sequence[Analysis], every: bool) -> Analysis:
    """The analysis of a choice among parts. With `every`, a token is cut off only if every part cuts it off."""
    weight = reduce(Interval.hull, [own.weight for own in found])
    cut = None if every and not all(own.cut for own in found) else _hull(found)
    return Analysis(VECTOR, weight, max(own.size for own in found), max(own.scale for own in found), cut)


def _hull(found: Iterable[Analysis]) -> Interval | None:
    """The smallest interval that holds the `cut` of every part; None if no part has one."""
    cuts = [own.cut for own in found if own.cut]
    return reduce(Interval.hull, cuts) if cuts else None


def _total(found: Iterable[Analysis], name: str) -> float:
    return sum(getattr(own, name) for own in found)
