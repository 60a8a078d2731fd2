"""Fourth stage of a formula (checked -> bound): it connects names with what a desk has.

Anchors and attributes become mixes, and terms become branches (rows of the batch). Standard library only. This module
uses no tensors and does not know the text being written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mixer.errors import UnknownName
from mixer.formula.functions import Ban, JudgeCall, RewardCall, Strength, Supersede, drafted
from mixer.formula.tree import Expr, Formula, Part, Ref, Term, named, quoted
from mixer.values.mix import COEFFICIENT_LIMIT, POLES, Attribute, Mix

MOST_BRANCHES = 16


@dataclass(frozen=True)
class Branch:
    """A row of the batch. Terms with equal branches share one row.

    Attributes:
        follows: the factor of the sliders' mix in the row's mix; 0 if the sliders do not act on the row.
        mix: what the row's mix holds besides.
        prompt: a text that is put before the user's prompt; with `only`, a text that replaces the user's prompt.
        model: the name of another base model.
    """

    follows: float = 1.0
    mix: Mix = field(default_factory=Mix)
    prompt: str | None = None
    only: bool = False
    model: str | None = None

    def under(self, sliders: Mix) -> Mix:
        """The row's mix for these slider positions. Coefficients are clipped to `COEFFICIENT_LIMIT` either way."""
        if not self.follows:
            return self.mix
        if self.follows == 1 and not self.mix.weights:
            return sliders
        total = dict(self.mix.weights)
        for name, coefficient in sliders.weights.items():
            total[name] = total.get(name, 0.0) + self.follows * coefficient
        return Mix(raw={name: max(-COEFFICIENT_LIMIT, min(c, COEFFICIENT_LIMIT)) for name, c in total.items()})


SLIDERS = Branch()
BASE = Branch(follows=0.0)


@dataclass(frozen=True)
class JudgeGoal:
    """A judge or reward head, and what it is asked for. A judge gives `goal * score + (1 - goal) * (1 - score)`."""

    judge: str
    goal: float = 1.0


@dataclass(frozen=True)
class Vocabulary:
    """The names that a desk knows.

    Attributes:
        attributes: name -> attribute, with its poles' labels.
        judges: names of judges. A judge with an attribute's name can also be called by the labels of its poles.
        rewards, models: names of reward heads and of other base models.
        labels: further names for judges' poles.
    """

    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    judges: tuple[str, ...] = ()
    rewards: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    labels: Mapping[str, JudgeGoal] = field(default_factory=dict)

    @property
    def mixes(self) -> Mapping[str, Mix]:
        """The names allowed in brackets, except `sliders`: attributes, poles' labels, anchors; each at 1."""
        found: dict[str, Mix] = {"base": Mix()}
        for attribute in self.attributes.values():
            for label, pole in zip(attribute.labels, POLES, strict=True):
                anchor = Mix(raw={f"{attribute.name}.{pole}": 1.0})
                found |= {f"{attribute.name}.{pole}": anchor}
                found.setdefault(label, anchor)
        return found | {name: Mix(raw={f"{name}.positive": 1.0}) for name in self.attributes}

    @property
    def judge_labels(self) -> Mapping[str, JudgeGoal]:
        """The names allowed in `judge` and `strength`."""
        return self._with_poles(self.judges)

    @property
    def reward_labels(self) -> Mapping[str, JudgeGoal]:
        """The names allowed in `reward`. The goal says which pole is rewarded."""
        return self._with_poles(self.rewards)

    def _with_poles(self, names: Sequence[str]) -> Mapping[str, JudgeGoal]:
        found = {label: goal for label, goal in self.labels.items() if goal.judge in names}
        for name in names:
            if attribute := self.attributes.get(name):
                found |= {
                    label: JudgeGoal(name, goal) for label, goal in zip(attribute.labels, (0.0, 1.0), strict=True)
                }
        return found | {name: JudgeGoal(name) for name in names}


@dataclass(frozen=True)
class BoundFormula:
    """A formula whose names are known.

    Attributes:
        branch_of: term -> its branch.
        judge_goals: a call of `judge`, `strength` or `reward` -> the judge or reward head, and the goal.
        bans: words that must not occur in the text.
        draft: the formula that proposes tokens for this one (`supersede`); None if there is none.
    """

    formula: Formula
    branch_of: Mapping[Term, Branch]
    judge_goals: Mapping[Expr, JudgeGoal]
    bans: tuple[str, ...]
    draft: BoundFormula | None

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The distinct branches in order, without the draft's.

        A formula without terms, such as `uniform`, gets the base as its row. The row gives the size of the vocabulary.
        """
        return tuple(dict.fromkeys(self.branch_of.values())) or (BASE,)

    @property
    def needs_opinions(self) -> bool:
        """Whether the formula asks a judge or a reward head."""
        return bool(self.judge_goals)

    @property
    def reward_branch(self) -> Branch | None:
        """The row whose hidden state reward heads read.

        It is the first row of the resident base on which sliders act. If there is none, it is the first row of the
        resident base; if there is none, None.
        """
        resident = [row for row in self.branches if row.model is None]
        return next((row for row in resident if row.follows), resident[0] if resident else None)

    @cached_property
    def numbers(self) -> Mapping[int, int]:
        """`id` of each node that the result needs -> its number.

        Equal expressions have the same number. So have a name and its definition, and a `supersede` and its target.
        """
        definitions, known, numbers = dict(self.formula.definitions), dict[Expr, int](), dict[int, int]()

        def visit(node: Expr) -> int:
            if id(node) not in numbers:
                if isinstance(node, Ref):
                    numbers[id(node)] = visit(definitions[node.name])
                elif isinstance(node, Supersede):
                    numbers[id(node)] = visit(node.target)
                else:  # children become their numbers, because hashing a whole tree at every node takes quadratic time
                    flat = node.with_children(lambda child: Ref(str(visit(child))))
                    numbers[id(node)] = known.setdefault(flat, len(known))
            return numbers[id(node)]

        visit(self.formula.result)
        return numbers


def bind(formula: Formula, vocabulary: Vocabulary) -> BoundFormula:
    """Find what every name of a checked formula stands for.

    Raises:
        FormulaError: a name is unknown, there are more than `MOST_BRANCHES` branches, a coefficient is beyond
            `COEFFICIENT_LIMIT`, anchors are mixed into another base model, or a reward head has no row to read.
    """
    needed, names = _needed(formula), _Names(formula, vocabulary)
    branch_of, judge_goals = dict[Term, Branch](), dict[Expr, JudgeGoal]()
    for node in needed:
        if isinstance(node, Term):
            branch_of[node] = names.branch(node)
            if len(set(branch_of.values())) > MOST_BRANCHES:
                message = f"This is the {MOST_BRANCHES + 1}th different model, and {MOST_BRANCHES} are the most."
                raise formula.error(message, "Use fewer mixes and prompts; equal ones count once.", node)
        elif isinstance(node, JudgeCall | Strength):
            judge_goals[node] = names.known("judge", node.attribute, names.judge_labels, node)
        elif isinstance(node, RewardCall):
            judge_goals[node] = names.known("reward head", node.attribute, vocabulary.reward_labels, node)
    bans = dict.fromkeys(word for node in needed if isinstance(node, Ban) for word in node.words)
    draft = bind(drafted(formula), vocabulary) if any(isinstance(node, Supersede) for node in needed) else None
    bound = BoundFormula(formula, branch_of, judge_goals, tuple(bans), draft)
    for node in judge_goals:
        if isinstance(node, RewardCall) and bound.reward_branch is None:
            hint = "Add a term of its own, such as base."
            raise formula.error("A reward head reads the resident base, and the formula has no term of it.", hint, node)
    return bound


def _needed(formula: Formula) -> Iterable[Expr]:
    """The nodes that the result depends on, in order. Of `supersede` only the target counts."""
    definitions, seen = dict(formula.definitions), dict[int, Expr]()  # by id: hashing whole trees is quadratic
    waiting: list[Expr] = [formula.result]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node
        if isinstance(node, Supersede):
            waiting.append(node.target)
        elif isinstance(node, Ref):
            waiting.append(definitions[node.name])
        else:
            waiting += reversed(node.children)
    return seen.values()


class _Names:
    """Looks up one formula's names in a vocabulary."""

    def __init__(self, formula: Formula, vocabulary: Vocabulary) -> None:
        self.formula, self.vocabulary = formula, vocabulary
        self.mixes, self.judge_labels = vocabulary.mixes, vocabulary.judge_labels

    def branch(self, term: Term) -> Branch:
        """The branch of a term: the sum of its parts, and its prompt."""
        follows, positions, coefficients = 0.0, defaultdict[str, float](float), defaultdict[str, float](float)
        for part in term.mix:
            if part.name == "sliders":
                follows += part.weight
            elif part.name in self.vocabulary.attributes:
                positions[part.name] += part.weight
            else:
                for anchor, share in self.known("anchor or attribute", part.name, self.mixes, part).weights.items():
                    coefficients[anchor] += part.weight * share
        for name, position in positions.items():  # the sign chooses the pole
            coefficients[f"{name}.{'positive' if position > 0 else 'negative'}"] += abs(position)
        if max(map(abs, [follows, *coefficients.values()])) > COEFFICIENT_LIMIT:
            message = f"These weights add up to more than {COEFFICIENT_LIMIT:g} of one anchor."
            raise self.formula.error(message, "From 0 to 1 is usual.", term)
        mix = Mix(raw=coefficients)
        if term.model is not None:
            self.known("base model", term.model, dict.fromkeys(self.vocabulary.models), term)
            if mix.weights or follows:
                message = f"The anchors belong to the resident base, not to {term.model!r}."
                raise self.formula.error(message, f"Write [base, model={quoted(term.model)}].", term)
        prompt = term.prompt if term.only else term.prompt or None  # an empty text before the user's changes nothing
        return Branch(follows, mix, prompt, term.only, term.model)

    def known(self, kind: str, name: str, known: Mapping[str, Any], at: Expr | Part) -> Any:
        """`known[name]`. A missing name raises a `FormulaError` at `at`, with the most useful hint."""
        if name in known:
            return known[name]
        error = UnknownName(kind, name, known)
        if name in dict(self.formula.definitions):
            error.hint = "It is defined further behind: a definition stands before its use."
        elif known is self.mixes and name in self.judge_labels:
            error.hint = f"A judge is called so: write judge({named(name)})."
        raise self.formula.error(error.message, error.hint, at)
