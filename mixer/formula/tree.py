"""The tree of a formula, which the second stage (tokens -> tree) makes.

Nodes are frozen and hold data. They combine with `+ - * /`, and print as text that parses to the same tree.
`mixer.decoding.evaluate` computes what a node means; `check` says what may stand where. Standard library only. This
module knows no model.

Source: Dekoninck et al., "Controlled Text Generation via Language Model Arithmetic", arXiv 2311.14479.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from decimal import Decimal
from functools import lru_cache
from typing import Any, ClassVar

from mixer.errors import FormulaError, InvalidValue

Span = tuple[int, int]  # offsets of a node's text in its source

IDENTIFIER = r"[^\W\d]\w*(?:\.\w+)*"  # a name that needs no quotes
WORDS = ("sliders", "base", "only", "model")  # names that the language uses itself

# The kinds of arguments. `KINDS` finds the kind by the annotation of the argument's field.
NUMBER, COUNT, EXPR, EXPRS, NAME, TEXTS = "number", "whole number", "expression", "expressions", "name", "texts"
KINDS = {
    "float": NUMBER,
    "int": COUNT,
    "Expr": EXPR,
    "Expr | None": EXPR,
    "tuple[Expr, ...]": EXPRS,
    "str": NAME,
    "tuple[str, ...]": TEXTS,
}


@dataclass(frozen=True, kw_only=True)
class Expr:
    """Any node. Equal nodes print alike. Their place in the source (`span`) does not count."""

    span: Span = field(default=(0, 0), compare=False, repr=False)

    @property
    def children(self) -> tuple[Expr, ...]:
        """The expressions directly inside this one."""
        found: list[Expr] = []
        for own in fields(self):
            value = getattr(self, own.name)
            found += [value] if isinstance(value, Expr) else []
            found += [one for one in value if isinstance(one, Expr)] if isinstance(value, tuple) else []
        return tuple(found)

    def with_children(self, change: Callable[[Expr], Expr]) -> Expr:
        """A copy of this node, in which `change` was applied to each child."""
        values = {own.name: getattr(self, own.name) for own in fields(self)}
        for name, value in values.items():
            if isinstance(value, Expr):
                values[name] = change(value)
            elif isinstance(value, tuple):
                values[name] = tuple(change(one) if isinstance(one, Expr) else one for one in value)
        return type(self)(**values)

    def __add__(self, other: Expr | float) -> Expr:
        return Sum((*_summands(self), *_summands(expr(other))))

    def __radd__(self, other: float) -> Expr:
        return expr(other) + self

    def __sub__(self, other: Expr | float) -> Expr:
        return Sum((*_summands(self), Neg(expr(other))))

    def __rsub__(self, other: float) -> Expr:
        return expr(other) - self

    def __mul__(self, other: Expr | float) -> Expr:
        return Product((*_factors(self), *_factors(expr(other))))

    def __rmul__(self, other: float) -> Expr:
        return expr(other) * self

    def __truediv__(self, other: float) -> Expr:
        return Quotient(self, float(other))

    def __neg__(self) -> Expr:
        return Neg(self)


@dataclass(frozen=True)
class Number(Expr):
    """A constant, at least 0; `expr(-2)` is `Neg(Number(2))`."""

    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value < float("inf"):
            raise InvalidValue(f"{self.value!r} is no number of a formula.", "Give a finite one, at least 0.")

    def __str__(self) -> str:
        return number(self.value)


@dataclass(frozen=True)
class Ref(Expr):
    """A reference to a definition of the same formula."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Part:
    """One weighted name inside brackets."""

    weight: float
    name: str
    span: Span = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True)
class Term(Expr):
    """A leaf of the formula: the distribution of one mix, computed by one row of the batch.

    Attributes:
        mix: weighted anchors, attributes, `sliders` or `base`.
        prompt: a text that is put before the user's prompt; with `only`, a text that replaces the user's prompt.
        model: the name of another base model.
    """

    mix: tuple[Part, ...]
    prompt: str | None = None
    only: bool = False
    model: str | None = None

    def __str__(self) -> str:
        if self == Term((Part(1.0, name := self.mix[0].name),)) and is_name(name):
            return name
        inside = "".join(_part(part, first=index == 0) for index, part in enumerate(self.mix))
        inside += f", model={quoted(self.model)}" if self.model is not None else ""
        prompt = "" if self.prompt is None else quoted(self.prompt)
        prompt = f"only({prompt})" if self.only else prompt
        return f"[{inside}]" + (f" @ {prompt}" if prompt else "")


@dataclass(frozen=True)
class Sum(Expr):
    """Two or more summands. A difference is a sum with a `Neg`."""

    parts: tuple[Expr, ...]

    def __str__(self) -> str:
        text = _inside(self.parts[0], (Sum,))
        for part in self.parts[1:]:
            negative = isinstance(part, Neg)
            text += f" {'-' if negative else '+'} {_inside(part.value if negative else part, (Sum, Neg))}"
        return text


@dataclass(frozen=True)
class Neg(Expr):
    """The negative of an expression."""

    value: Expr

    def __str__(self) -> str:
        return f"-{_inside(self.value, (Sum, Neg))}"


@dataclass(frozen=True)
class Product(Expr):
    """Two or more factors. At most one of them is a vector; the others are numbers and masks."""

    factors: tuple[Expr, ...]

    def __str__(self) -> str:
        first, *others = self.factors
        loose = (Sum, Neg, Product)
        return " * ".join([_inside(first, loose), *(_inside(other, (*loose, Quotient)) for other in others)])


@dataclass(frozen=True)
class Quotient(Expr):
    """An expression divided by a number that is not 0."""

    value: Expr
    divisor: float

    def __str__(self) -> str:
        return f"{_inside(self.value, (Sum, Neg))} / {number(self.divisor)}"


FUNCTIONS: dict[str, type[Call]] = {}  # name in the language -> class; the classes of `functions` enter themselves


@dataclass(frozen=True)
class Call(Expr):
    """A function of the language. Its fields are its arguments. Fields with defaults print as `name=value`."""

    written: ClassVar[str]

    def __init_subclass__(cls, name: str) -> None:
        cls.written = name
        FUNCTIONS[name] = cls

    def __str__(self) -> str:
        shown = []
        for argument in signature(type(self)):
            value = getattr(self, argument.name)
            if argument.kind in (EXPRS, TEXTS):
                shown += [str(one) if argument.kind == EXPRS else quoted(one) for one in value]
            elif argument.default is MISSING or value != argument.default:
                plain = number if argument.kind in (NUMBER, COUNT) else named if argument.kind == NAME else str
                written = plain(value)
                shown.append(written if argument.default is MISSING else f"{argument.name}={written}")
        return f"{self.written}({', '.join(shown)})"


@dataclass(frozen=True)
class Formula:
    """A whole formula: definitions and the result. A definition may use the definitions before it."""

    result: Expr
    definitions: tuple[tuple[str, Expr], ...] = ()
    source: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return "".join(f"{name} = {value}; " for name, value in self.definitions) + str(self.result)

    def error(self, message: str, hint: str, at: Expr | Part) -> FormulaError:
        """An error that points at a node of this formula. The caller raises it."""
        return FormulaError(message, hint, self.source, *at.span)


def expr(value: Expr | float) -> Expr:
    """A node, from a node or a number."""
    if isinstance(value, Expr):
        return value
    return Neg(Number(-float(value))) if value < 0 else Number(float(value))


@dataclass(frozen=True)
class Argument:
    """One argument of a function. `default` is `dataclasses.MISSING` if the argument must be given."""

    name: str
    kind: str
    default: Any


@lru_cache
def signature(function: type[Call]) -> tuple[Argument, ...]:
    """A function's arguments, in order."""
    own = [f for f in fields(function) if f.name != "span"]
    return tuple(Argument(f.name, KINDS[str(f.type)], f.default) for f in own)


def number(value: float) -> str:
    """A number as the language writes it: without exponent, and with every digit that a float needs."""
    text = repr(float(value) + 0.0)  # + 0.0 turns -0.0 into 0.0
    if "e" in text:
        text = f"{Decimal(text):f}"
    return text.removesuffix(".0")


def quoted(text: str) -> str:
    """A text in quotes as the language writes it, which is JSON."""
    return json.dumps(text, ensure_ascii=False)


def named(name: str) -> str:
    """A name as the language writes it: in quotes if it is no identifier."""
    return name if re.fullmatch(IDENTIFIER, name) else quoted(name)


def is_name(name: str) -> bool:
    """Whether a name can stand for a term without brackets."""
    return bool(re.fullmatch(IDENTIFIER, name)) and name not in FUNCTIONS and name not in ("only", "model")


def _inside(node: Expr, loose: tuple[type[Expr], ...]) -> str:
    return f"({node})" if isinstance(node, loose) else str(node)


def _summands(node: Expr) -> tuple[Expr, ...]:
    return node.parts if isinstance(node, Sum) else (node,)


def _factors(node: Expr) -> tuple[Expr, ...]:
    return node.factors if isinstance(node, Product) else (node,)


def _part(part: Part, first: bool) -> str:
    sign = ("-" if first else " - ") if part.weight < 0 else ("" if first else " + ")
    size = abs(part.weight)
    return f"{sign}{named(part.name) if size == 1 else f'{number(size)}*{named(part.name)}'}"
