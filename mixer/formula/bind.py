"""What the names of a formula stand for: anchors and attributes become mixes, terms become branches of a batch.

Values only; standard library only. Knows no tensors and no text being written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mixer.errors import FormulaError, UnknownName
from mixer.formula.functions import Ban, Judge, Reward, Strength, Supersede
from mixer.formula.nodes import Expr, Formula, Part, Ref, Term, quoted
from mixer.mix import POLES, Attribute, Mix

MOST_BRANCHES = 16


@dataclass(frozen=True)
class Branch:
    """A row of the batch. Terms with equal branches are computed once.

    Attributes:
        follows: the sliders' share in its mix; 0 where they do not act on it.
        mix: what else is in its mix.
        prompt: text before the user's; with `only`, in its place.
        model: the name of another base model.
    """

    follows: float = 1.0
    mix: Mix = field(default_factory=Mix)
    prompt: str | None = None
    only: bool = False
    model: str | None = None

    def under(self, sliders: Mix) -> Mix:
        """The branch's mix while the sliders stand like this."""
        if not self.follows:
            return self.mix
        share = sliders if self.follows == 1 else sliders * self.follows
        return share + self.mix if self.mix.weights else share


SLIDERS = Branch()
BASE = Branch(follows=0.0)


@dataclass(frozen=True)
class Opinion:
    """A judge's score for something: `goal * score + (1 - goal) * (1 - score)`."""

    judge: str
    goal: float = 1.0


@dataclass(frozen=True)
class Vocabulary:
    """The names that a desk knows.

    Attributes:
        attributes: name -> attribute, with its poles' labels.
        judges: the judges' names; a judge called like an attribute also goes by the labels of its poles.
        rewards, models: names of reward heads and of other base models.
        labels: further names for judges' poles.
    """

    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    judges: tuple[str, ...] = ()
    rewards: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    labels: Mapping[str, Opinion] = field(default_factory=dict)

    @property
    def mixes(self) -> Mapping[str, Mix]:
        """What can stand in brackets, `sliders` apart: attributes, poles' labels and anchors, each at full strength."""
        found: dict[str, Mix] = {"base": Mix()}
        for attribute in self.attributes.values():
            for label, pole in zip(attribute.labels, POLES, strict=True):
                anchor = Mix(raw={f"{attribute.name}.{pole}": 1.0})
                found |= {f"{attribute.name}.{pole}": anchor}
                found.setdefault(label, anchor)
        return found | {name: Mix(raw={f"{name}.positive": 1.0}) for name in self.attributes}

    @property
    def opinions(self) -> Mapping[str, Opinion]:
        """What can stand in `judge` and `strength`."""
        found = dict(self.labels)
        for name in self.judges:
            if attribute := self.attributes.get(name):
                found |= {label: Opinion(name, goal) for label, goal in zip(attribute.labels, (0.0, 1.0), strict=True)}
        return found | {name: Opinion(name) for name in self.judges}


@dataclass(frozen=True)
class Bound:
    """A formula whose names are known.

    Attributes:
        branches: term -> its branch.
        opinions: `judge` or `strength` -> whose, and for what.
        draft: the formula that guesses for this one, or None.
        bans: words that the text may not hold.
    """

    formula: Formula
    branches: Mapping[Term, Branch]
    opinions: Mapping[Expr, Opinion]
    bans: tuple[str, ...]
    draft: Bound | None

    @property
    def rows(self) -> tuple[Branch, ...]:
        """The distinct branches of the formula itself, in order."""
        return tuple(dict.fromkeys(self.branches.values()))

    @property
    def reads_text(self) -> bool:
        """Whether its value depends on the words of the text, through a judge."""
        return bool(self.opinions)

    @cached_property
    def numbers(self) -> Mapping[int, int]:
        """The number of every needed node, by its `id`. Equal expressions share one, and so do a name and
        its definition, a `supersede` and its target."""
        definitions, known, numbers = dict(self.formula.definitions), dict[Expr, int](), dict[int, int]()

        def visit(node: Expr) -> int:
            if id(node) not in numbers:
                if isinstance(node, Ref):
                    numbers[id(node)] = visit(definitions[node.name])
                elif isinstance(node, Supersede):
                    numbers[id(node)] = visit(node.target)
                else:  # numbers stand for what is inside, since hashing whole trees at every node is quadratic
                    flat = node.with_children(lambda child: Ref(str(visit(child))))
                    numbers[id(node)] = known.setdefault(flat, len(known))
            return numbers[id(node)]

        visit(self.formula.result)
        return numbers


def bind(formula: Formula, vocabulary: Vocabulary) -> Bound:
    """Find what every name of a formula stands for.

    Raises:
        FormulaError: a name is not known, or there are too many branches.
    """
    needed = list(_needed(formula))
    terms = {node: _branch(node, vocabulary, formula) for node in needed if isinstance(node, Term)}
    if len(set(terms.values())) > MOST_BRANCHES:
        raise FormulaError(
            f"The formula has {len(set(terms.values()))} different terms, and {MOST_BRANCHES} is the most.",
            "Use fewer models and prompts; equal ones count once.",
            formula.source,
            *formula.result.span,
        )
    opinions = {
        node: _known("judge", node.attribute, vocabulary.opinions, node, formula)
        for node in needed
        if isinstance(node, Judge | Strength)
    }
    for node in needed:
        if isinstance(node, Reward):
            _known("reward head", node.attribute, dict.fromkeys(vocabulary.rewards), node, formula)
    bans = dict.fromkeys(word for node in needed if isinstance(node, Ban) for word in node.words)
    drafted = _drafted(formula)
    draft = None if drafted == formula else bind(drafted, vocabulary)
    return Bound(formula, terms, opinions, tuple(bans), draft)


def _needed(formula: Formula) -> Iterable[Expr]:
    """The nodes that the result depends on, each once; of `supersede` the target alone."""
    definitions, seen = dict(formula.definitions), {}
    waiting: list[Expr] = [formula.result]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen[node] = True
        if isinstance(node, Supersede):
            waiting.append(node.target)
        elif isinstance(node, Ref):
            waiting.append(definitions[node.name])
        else:
            waiting += reversed(node.children)
    return seen


def _drafted(formula: Formula) -> Formula:
    """The formula with every `supersede` replaced by its draft."""

    def draft(node: Expr) -> Expr:
        return draft(node.draft) if isinstance(node, Supersede) else node.with_children(draft)

    definitions = tuple((name, draft(value)) for name, value in formula.definitions)
    return Formula(draft(formula.result), definitions, formula.source)


def _branch(term: Term, vocabulary: Vocabulary, formula: Formula) -> Branch:
    mixes, follows, mix = vocabulary.mixes, 0.0, Mix()
    for part in term.mix:
        if part.name == "sliders":
            follows += part.weight
            continue
        own = _known("anchor or attribute", part.name, mixes, part, formula)
        if part.name in vocabulary.attributes and part.weight < 0:  # a position on the other side
            mix += Mix(raw={f"{part.name}.negative": -part.weight})
        else:
            mix += own * part.weight
    if term.model is not None:
        _known("base model", term.model, dict.fromkeys(vocabulary.models), term, formula)
        if mix.weights or follows:
            raise FormulaError(
                f"The anchors belong to the resident base, not to {term.model!r}.",
                f"Write [base, model={quoted(term.model)}].",
                formula.source,
                *term.span,
            )
    return Branch(follows, mix, term.prompt, term.only, term.model)


def _known(kind: str, name: str, known: Mapping[str, Any], node: Expr | Part, formula: Formula) -> Any:
    if name in known:
        return known[name]
    error = UnknownName(kind, name, known)
    raise FormulaError(error.message, error.hint, formula.source, *node.span)
