r"""Second stage of a formula (tokens -> tree): a recursive-descent parser, in time linear in the text.

    program  = { name "=" sum ";" } sum
    sum      = ["-"] product { ("+" | "-") product }
    product  = factor { "*" factor | "/" ["-"] number }
    factor   = "-" factor | "(" sum ")" | number | call | term | name
    call     = function "(" [ argument { "," argument } ] ")" | "uniform"
    argument = [ keyword "=" ] ( sum | ["-"] number | label | text )
    term     = ( "[" mix [ "," "model" "=" label ] "]" | name | lora { lora } ) [ "@" prompt ]
    prompt   = text | "only" "(" text ")"
    mix      = ["-"] part { ("+" | "-") part | lora }
    part     = [ number "*" ] label | lora
    label    = name | text
    lora     = "<lora:" letters [ ":" number ] ">"
    text     = as in JSON, or in single quotes
    name     = letters, digits and "_", the first no digit, and dots between such

A `name` alone refers to a definition if the formula has defined it before; else it is a term. "#" begins a comment that
ends with the line. This module does not know what may stand where (`check`) or which anchors and judges exist (`bind`).
"""

from __future__ import annotations

import difflib
from dataclasses import MISSING, replace
from typing import Any

from mixer.formula.cursor import DEEPEST
from mixer.formula.functions import RESERVED, Uniform
from mixer.formula.lexer import LARGEST, Token
from mixer.formula.terms import TermReader
from mixer.formula.tree import (
    COUNT,
    EXPR,
    EXPRS,
    FUNCTIONS,
    NAME,
    NUMBER,
    TEXTS,
    Argument,
    Call,
    Expr,
    Formula,
    Neg,
    Number,
    Part,
    Product,
    Quotient,
    Ref,
    Span,
    Sum,
    Term,
    signature,
)

MOST_NODES = 400  # of a formula, counting the parts inside square brackets


def parse(text: str) -> Formula:
    """The tree of a formula. Every node knows its place in the text.

    Raises:
        FormulaError: the text is no formula, or it is too long, too large or nested too deeply.
    """
    return _Parser(text).program()


class _Parser(TermReader):
    nodes = 0  # how many nodes were made so far

    # The program

    def program(self) -> Formula:
        definitions: list[tuple[str, Expr]] = []
        while self.names_next():
            definitions.append(self.definition())
        if self.token.kind == "end" and definitions:
            hint = f"Behind the last ';' stands the formula that uses the definitions, such as {definitions[-1][0]}."
            raise self.error("The formula itself is missing.", hint, self.token.span)
        if self.token.kind == "end":
            raise self.error("The formula is empty.", "Write sliders for what the sliders say.", self.token.span)
        result = self.sum()
        if self.token.kind != "end":
            raise self.unexpected()
        self.depth(result)
        return Formula(result, tuple(definitions), self.source)

    def definition(self) -> tuple[str, Expr]:
        name, _ = self.next(), self.next()
        if name.written in RESERVED:
            message = f"{name.written!r} has a meaning already and cannot be defined."
            raise self.error(message, "Choose another name.", name.span)
        if name.written in self.definitions:
            message = f"{name.written[:80]!r} is defined twice."
            raise self.error(message, "Give one of the two another name.", name.span)
        value = self.sum()
        if self.token.kind == "end":
            message = f"The definition of {name.written[:80]!r} does not end."
            raise self.error(message, "Put ';' behind it, and then the formula that uses it.", name.span)
        if self.token.kind != ";":
            raise self.unexpected()
        self.next()
        self.definitions[name.written] = self.depth(value)
        return name.written, value

    def made(self, node: Expr) -> Expr:
        """`node` itself, after counting it. Raises a `FormulaError` beyond `MOST_NODES` nodes."""
        self.nodes += 1 + (len(node.mix) if isinstance(node, Term) else 0)
        if self.nodes > MOST_NODES:
            raise self.error(f"The formula has more than {MOST_NODES} parts.", "Shorten it.", node.span)
        return node

    def depth(self, root: Expr) -> int:
        """The depth of a tree, including the definitions that it uses. A loop, because the depth has no bound yet."""
        deepest, waiting = 0, [(root, 1)]
        while waiting:
            node, depth = waiting.pop()
            depth += self.definitions[node.name] if isinstance(node, Ref) else 0
            if depth > DEEPEST:
                raise self.too_deep(node.span)
            deepest = max(deepest, depth)
            waiting += [(child, depth + 1) for child in reversed(node.children)]
        return deepest

    # Arithmetic

    def sum(self) -> Expr:
        parts = [self.summand() if self.token.kind == "-" else self.product()]
        while self.token.kind in ("+", "-"):
            if self.token.kind == "+":
                self.next()
                parts.append(self.product())
            else:
                parts.append(self.summand())
        return parts[0] if len(parts) == 1 else self.made(Sum(tuple(parts), span=_across(parts)))

    def summand(self) -> Expr:
        """A minus and the product behind it, as a `Neg`."""
        sign, value = self.next(), self.product()
        return self.made(Neg(value, span=(sign.span[0], value.span[1])))

    def product(self) -> Expr:
        factors = [self.factor()]
        while self.token.kind in ("*", "/"):
            if self.next().kind == "*":
                factors.append(self.factor())
            else:
                value, (divisor, stop) = self.joined(factors), self.divisor()
                factors[:] = [self.made(Quotient(value, divisor, span=(value.span[0], stop)))]
        return self.joined(factors)

    def joined(self, factors: list[Expr]) -> Expr:
        return factors[0] if len(factors) == 1 else self.made(Product(tuple(factors), span=_across(factors)))

    def divisor(self) -> tuple[float, int]:
        start = self.token.span[0]
        divisor, stop = self.number(
            "Behind '/' stands a number.", "Other things can be multiplied, as in 0.5 * formal."
        )
        if abs(divisor) < 1 / LARGEST:
            message = "The divisor is too close to 0." if divisor else "Nothing can be divided by 0."
            raise self.error(message, "Divide by another number.", (start, stop))
        return divisor, stop

    def factor(self) -> Expr:
        token = self.token
        if token.kind == "-":
            self.next()
            with self.nested():
                value = self.factor()
            return self.made(Neg(value, span=(token.span[0], value.span[1])))
        if token.kind == "(":
            self.next()
            with self.nested():
                value = self.sum()
            return replace(value, span=(token.span[0], self.close(token, ")")))
        if token.kind == "number":
            self.next()
            return self.made(Number(float(token.value), span=token.span))
        if token.kind == "name":
            return self.name()
        if token.kind in ("[", "lora"):
            return self.made(self.term())
        raise self.missing()

    def name(self) -> Expr:
        token = self.next()
        name, behind = token.written, self.token.kind
        if name in FUNCTIONS:
            if behind == "(":
                return self.call(token, FUNCTIONS[name])
            if name == Uniform.written:
                return self.made(Uniform(span=token.span))
            raise self.error(f"{name} is a function.", f"Write {_usage(FUNCTIONS[name])}.", token.span)
        if name in ("only", "model"):
            place = '[sliders] @ only("text")' if name == "only" else "[base, model=name]"
            raise self.error(f"{name!r} cannot stand here.", f"Its place is {place}.", token.span)
        if behind == "(":
            near = difflib.get_close_matches(name[:80], FUNCTIONS, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"To multiply, write {name[:80]} * (...)."
            raise self.error(f"There is no function called {name[:80]!r}.", hint, token.span)
        if name not in self.definitions:
            return self.made(self.prompted((Part(1.0, name, span=token.span),), None, token.span))
        if behind == "@":
            message = f"{name[:80]!r} is a definition, and a prompt belongs to one model."
            raise self.error(message, "Put the prompt into the definition.", token.span)
        return self.made(Ref(name, span=token.span))

    # Functions

    def call(self, name: Token, function: type[Call]) -> Expr:
        opening, arguments, given = self.next(), signature(function), dict[str, Any]()
        while self.token.kind != ")":
            argument = self.argument(function, given)
            with self.nested():
                value = self.value(argument, function)
            several = argument.kind in (EXPRS, TEXTS)
            given[argument.name] = (*given.get(argument.name, ()), value) if several else value
            if self.token.kind != ",":
                break
            self.next()
            if self.token.kind == ")":
                raise self.missing()
        span = name.span[0], self.close(opening, ")")
        lacking = [one.name for one in arguments if one.default is MISSING and one.name not in given]
        if lacking:
            message = f"{function.written} needs {' and '.join(lacking)}."
            raise self.error(message, f"Write {_usage(function)}.", span)
        return self.made(function(**given, span=span))

    def argument(self, function: type[Call], given: dict[str, Any]) -> Argument:
        """The argument that comes next: the named one, or the first one not given yet. Moves past `name =`."""
        arguments, usage, start = signature(function), f"Write {_usage(function)}.", self.token
        if arguments and arguments[0].kind in (EXPRS, TEXTS) and not self.names_next():
            return arguments[0]
        if self.names_next():
            self.place += 2
            if start.written in given:
                raise self.error(f"{function.written} has {start.written!r} twice.", "Take one out.", start.span)
            for argument in arguments:
                if argument.name == start.written and argument.kind not in (EXPRS, TEXTS):
                    return argument
            message = f"{function.written} has no argument called {start.written[:80]!r}."
            raise self.error(message, usage, start.span)
        if len(given) == len(arguments):
            raise self.error(f"{function.written} takes no more than {len(arguments)} arguments.", usage, start.span)
        if list(given) != [argument.name for argument in arguments[: len(given)]]:
            raise self.error("An argument without a name stands behind one with a name.", usage, start.span)
        return arguments[len(given)]

    def value(self, argument: Argument, function: type[Call]) -> Any:
        """The next argument's value, read as the kind that the function's signature asks for."""
        kind, start = argument.kind, self.token
        if kind in (EXPR, EXPRS):
            return self.sum()
        if start.kind in (",", ")", "end"):
            raise self.missing()
        if kind in (NUMBER, COUNT):
            value, stop = self.number(f"{argument.name} of {function.written} is a number.", "Write one, such as 1.")
            if kind == COUNT and value != int(value):
                raise self.error(
                    f"{argument.name} is a whole number.", "Leave out the decimals.", (start.span[0], stop)
                )
            return int(value) if kind == COUNT else value
        if start.kind == "text" or (start.kind == "name" and kind == NAME):
            return self.next().value
        if kind == TEXTS:
            raise self.error(f"{function.written} takes texts in quotes.", f"Write {_usage(function)}.", start.span)
        raise self.error(f"{function.written} takes a name.", f"Write {function.written}(politeness).", start.span)

    def number(self, message: str, hint: str) -> tuple[float, int]:
        """A number with its sign, and the offset of its end."""
        sign = -1 if self.token.kind == "-" else 1
        if sign < 0:
            self.next()
        if self.token.kind != "number":
            raise self.error(message, hint, self.token.span)
        token = self.next()
        return sign * float(token.value), token.span[1]


def _across(nodes: list[Expr]) -> Span:
    """The span from the first node to the last."""
    return nodes[0].span[0], nodes[-1].span[1]


def _usage(function: type[Call]) -> str:
    """A function with its arguments, as an error's hint shows it."""
    shown = []
    for argument in signature(function):
        if argument.kind in (EXPRS, TEXTS):
            shown += ["a", "b", "..."] if argument.kind == EXPRS else ['"a"', '"b"', "..."]
        else:
            shown.append(argument.name if argument.default is MISSING else f"{argument.name}=")
    return f"{function.written}({', '.join(shown)})" if shown else function.written
