"""Reading terms: mixes in square brackets, with their prompts. Part of the second stage (tokens -> tree).

Standard library only. This module does not know which anchors exist.
"""

from __future__ import annotations

import re

from mixer.formula.cursor import Cursor
from mixer.formula.lexer import Token
from mixer.formula.tree import Part, Span, Term, named
from mixer.values.mix import COEFFICIENT_LIMIT

LORA = re.compile(r"<lora:\s*([^:]*?)\s*(?::\s*([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s*)?>")
SUM = "Inside stands a sum of anchors and attributes, such as [0.7*formal + 0.3*polite]."


class TermReader(Cursor):
    """A cursor that reads terms."""

    def term(self) -> Term:
        """The next term, which begins with '[' or with `<lora:...>`."""
        opening, model = self.token, None
        if opening.kind == "lora":
            parts = [self.lora(1)]
            while self.token.kind == "lora":
                parts.append(self.lora(1))
            return self.prompted(tuple(parts), None, (opening.span[0], parts[-1].span[1]))
        self.next()
        parts = self.mix(opening)
        if self.token.kind == ",":
            self.next()
            if not (self.names_next() and self.next().written == "model"):
                raise self.error("Behind the comma stands model=name.", "Write [base, model=name].", self.token.span)
            self.next()
            model, _ = self.label()
        return self.prompted(tuple(parts), model, (opening.span[0], self.close(opening, "]")))

    def mix(self, opening: Token) -> list[Part]:
        """The parts inside brackets. `opening` is the bracket, which the cursor has passed."""
        if self.token.kind == "]":
            hint = "[base] is the base model, [sliders] what the sliders say."
            raise self.error("The brackets are empty.", hint, (opening.span[0], self.token.span[1]))
        parts = [self.part(self.sign() if self.token.kind == "-" else 1)]
        while self.token.kind in ("+", "-", "lora"):
            parts.append(self.part(1 if self.token.kind == "lora" else self.sign()))
        if self.token.kind not in (",", "]", ")", ";", "end"):
            after = self.tokens[self.place + 1 :][:1]
            turned = self.token.kind == "*" and after[0].kind == "number"
            hint = f"Write {after[0].written[:40]}*{named(parts[-1].name)[:40]}." if turned else SUM
            raise self.error(f"{self.token.written[:40]!r} cannot stand here in brackets.", hint, self.token.span)
        return parts

    def sign(self) -> int:
        return -1 if self.next().kind == "-" else 1

    def part(self, sign: int) -> Part:
        if self.token.kind == "lora":
            return self.lora(sign)
        start, weight = self.token.span[0], 1.0
        if self.token.kind == "number":
            number = self.next()
            weight = self.coefficient(float(number.value), number.span)
            if self.token.kind != "*":
                hint = f"Write {number.written[:40]}*formal for a share of formal."
                raise self.error("In brackets every number needs '*' and a name.", hint, number.span)
            self.next()
        name, span = self.label()
        return Part(sign * weight, name, span=(start, span[1]))

    def label(self) -> tuple[str, Span]:
        """The name of an anchor, an attribute or a model."""
        token = self.token
        if token.kind == "end":
            raise self.missing()
        if token.kind not in ("name", "text"):
            raise self.error(f"A name has to stand here, not {token.written[:40]!r}.", SUM, token.span)
        self.next()
        return self.undefined(str(token.value), token.span), token.span

    def lora(self, sign: int) -> Part:
        token = self.next()
        match = LORA.fullmatch(token.written)
        if match is None or not match[1]:
            raise self.error("This is no <lora:name:weight>.", "An example is <lora:formal:0.7>.", token.span)
        weight = self.coefficient(float(match[2] or 1), token.span)
        return Part(sign * weight, self.undefined(match[1], token.span), span=token.span)

    def coefficient(self, weight: float, span: Span) -> float:
        if abs(weight) > COEFFICIENT_LIMIT:
            message = f"{weight:g} is too much of an anchor: {COEFFICIENT_LIMIT:g} is the most."
            raise self.error(message, "From 0 to 1 is usual.", span)
        return weight

    def undefined(self, name: str, span: Span) -> str:
        """`name`, unless the formula defines it. Inside brackets such a name would be mistaken for its definition."""
        if name in self.definitions:
            message = f"{name[:80]!r} is a definition, and brackets mix anchors and attributes."
            raise self.error(message, "Take it out of the brackets, or give the definition another name.", span)
        return name

    def prompted(self, mix: tuple[Part, ...], model: str | None, span: Span) -> Term:
        """A term of this mix, with its prompt if one follows."""
        if self.token.kind != "@":
            return Term(mix, model=model, span=span)
        at, opening = self.next(), None
        if self.token.written == "only":
            self.next()
            if self.token.kind != "(":
                raise self.error("Behind only stands a text in brackets.", 'Write @ only("text").', self.token.span)
            opening = self.next()
        if self.token.kind != "text":
            place = at.span if self.token.kind == "end" else self.token.span
            raise self.error("Behind '@' stands a text in quotes.", 'Write @ "text" or @ only("text").', place)
        prompt = self.next()
        stop = self.close(opening, ")") if opening else prompt.span[1]
        if self.token.kind == "@":
            raise self.error("A model takes one prompt.", "Write all of it in one text.", self.token.span)
        return Term(mix, str(prompt.value), opening is not None, model, span=(span[0], stop))
