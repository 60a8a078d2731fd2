"""Random formulas: valid ones to evaluate, and trees of any shape to parse and print."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st

from mixer.formula import functions as fn
from mixer.formula.bind import JudgeGoal, Vocabulary
from mixer.formula.lexer import LONGEST
from mixer.formula.parser import MOST_NODES
from mixer.formula.tree import Expr, Formula, Neg, Number, Part, Product, Quotient, Ref, Sum, Term, is_name
from mixer.values.mix import Attribute

POLES = {
    "formality": ("informal", "formal"),
    "humor": ("plain", "humorous"),
    "poetry": ("prose", "poetic"),
    "politeness": ("rude", "polite"),
    "sentiment": ("negative", "positive"),
    "simplicity": ("complex", "simple"),
}
VOCABULARY = Vocabulary(
    attributes={name: Attribute(name, None, None, labels) for name, labels in POLES.items()},
    judges=(*POLES, "toxicity"),
    rewards=("politeness",),
    labels={"toxic": JudgeGoal("toxicity"), "nontoxic": JudgeGoal("toxicity", 0.0)},
)
NAMES = ("sliders", "base", "formality", "humor.negative", "polite", "rude", "negative")
OPINIONS = ("politeness", "rude", "nontoxic")

patient = settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine makes drawing slow
factors = st.floats(0.25, 4).map(lambda value: round(value, 3))
shares = st.floats(0, 1).map(lambda value: round(value, 3))


def terms(names: Sequence[str] = NAMES) -> st.SearchStrategy[Term]:
    """Terms: mostly a single name, some a mix, some with a prompt."""
    weights = st.one_of(st.just(1.0), st.floats(-1.5, 1.5).map(lambda value: round(value, 2)))
    parts = st.lists(st.builds(Part, weights, st.sampled_from(names)), min_size=1, max_size=3).map(tuple)
    alone = st.builds(lambda name: Term((Part(1.0, name),)), st.sampled_from(names))
    prompt = st.sampled_from(["You are a pirate.", 'Say "no".\n', "ärger \\", ""])
    return st.one_of(alone, alone, st.builds(Term, parts), st.builds(Term, parts, prompt, st.booleans()))


@st.composite
def formulas(
    draw: st.DrawFn,
    depth: int = 5,
    names: Sequence[str] = NAMES,
    opinions: Sequence[str] = OPINIONS,
    *,
    judges: bool = True,
    strength: bool = True,
    ban: bool = True,
    supersede: bool = True,
    top: bool = True,
) -> Formula:
    """Formulas that `check` accepts, with no more than eight different terms.

    The sum of weights of every distribution in them is above 0 and never small beside the weights it is made of, since
    weights are only taken from others that are larger, or as differences of two of weight 1. What `top` cuts off is
    never subtracted; where several cut at once, now and then no token is left. Functions of all kinds occur, `reward`
    apart, and up to three definitions.

    Args:
        depth: how deep the tree may get.
        names: of anchors, attributes, sliders and base, for the terms.
        opinions: names that judges answer to.
        judges, strength, ban, supersede, top: False leaves these functions out.
    """
    grower = _Grower(draw, draw(st.lists(terms(names), min_size=1, max_size=8)), opinions)
    grower.judges, grower.strength, grower.supersede, grower.top = judges, strength, supersede, top
    definitions = []
    for name in draw(st.lists(st.sampled_from(["a", "tone", "größe_1"]), unique=True, max_size=3)):
        kind = draw(st.sampled_from(["unit", "distribution", "bias", "scalar", "mask"]))
        cut = kind == "distribution" and draw(st.booleans())
        definitions.append((name, grower.grown(kind, draw(st.integers(0, max(0, depth - 2))), cut)))
        grower.defined.append((name, kind, cut))
    result = grower.distribution(depth, cut=True)
    if ban and draw(st.integers(0, 3)) == 0:
        words = draw(st.lists(st.sampled_from(["very", "don't", "\n- "]), min_size=1, max_size=2))
        result = Sum((result, fn.Ban(tuple(words))))
    formula = Formula(result, tuple(definitions))
    roots = [value for _, value in definitions] + [result]
    assume(sum(map(_size, roots)) <= MOST_NODES and len(str(formula)) <= LONGEST)
    return formula


class _Grower:
    """Draws trees. `cut` says whether a total of -inf may come out."""

    judges = strength = supersede = top = True

    def __init__(self, draw: st.DrawFn, terms: Sequence[Term], opinions: Sequence[str]) -> None:
        self.draw, self.terms, self.opinions = draw, terms, opinions
        self.defined: list[tuple[str, str, bool]] = []

    def grown(self, kind: str, depth: int, cut: bool = False) -> Expr:
        if kind in ("scalar", "mask"):
            return self.scalar(depth) if kind == "scalar" else self.mask(depth)
        return getattr(self, kind)(depth, cut)

    def one(self, *choices: Callable[[], Expr]) -> Expr:
        return self.draw(st.sampled_from(choices))()

    def several(self, grow: Callable[[int, bool], Expr], depth: int, cut: bool) -> tuple[Expr, ...]:
        return tuple(grow(depth, cut) for _ in range(self.draw(st.integers(2, 3))))

    def number(self) -> Number:
        return Number(self.draw(factors))

    def known(self, kinds: Sequence[str], cut: bool) -> list[Callable[[], Expr]]:
        """Names of definitions of these kinds."""
        found = [name for name, kind, its in self.defined if kind in kinds and (cut or not its)]
        return [lambda: Ref(self.draw(st.sampled_from(found)))] if found else []

    def leaf(self) -> Expr:
        return self.draw(st.sampled_from([*self.terms, fn.Uniform()]))

    def unit(self, depth: int, cut: bool = False) -> Expr:
        """A distribution of weight 1, whatever the text."""
        if depth <= 0:
            return self.leaf()
        less = depth - 1
        choices = [
            self.leaf,
            lambda: fn.Norm(self.distribution(less, cut)),
            lambda: fn.Union(self.several(self.unit, less, cut)),
            lambda: fn.Intersect(self.several(self.unit, less, cut)),
            lambda: fn.SelfDebias(self.distribution(less, cut), self.distribution(less, True), self.draw(factors)),
            *self.known(["unit"], cut),
        ]
        if self.supersede:
            choices.append(lambda: fn.Supersede(self.unit(less, cut), self.unit(less, cut)))
        if cut and self.top:
            choices.append(lambda: self.some_top(less))
        return self.one(*choices)

    def some_top(self, depth: int) -> Expr:
        k, t = self.draw(st.sampled_from([0, 0, 1, 5, 50])), self.draw(st.one_of(st.just(1.0), factors))
        p, minp = self.draw(st.one_of(st.just(1.0), shares)), self.draw(st.one_of(st.just(0.0), shares))
        return fn.Top(self.distribution(depth, True), k, p, minp, t)

    def distribution(self, depth: int, cut: bool = False) -> Expr:
        if depth <= 0:
            return self.leaf()
        less = depth - 1
        return self.one(
            lambda: self.unit(depth, cut),
            lambda: Sum((self.distribution(less, cut), self.distribution(less, cut))),
            lambda: self.with_bias(less, cut),
            lambda: self.contrast(less, cut),
            lambda: Product((self.distribution(less, cut), self.positive())),
            lambda: Product((self.positive(), self.distribution(less, cut))),
            lambda: Quotient(self.distribution(less, cut), self.draw(factors)),
            lambda: fn.Union(self.several(self.distribution, less, cut)),
            lambda: fn.Intersect(self.several(self.distribution, less, cut)),
            lambda: fn.Max(self.several(self.distribution, less, cut)),
            lambda: fn.Min(self.several(self.distribution, less, cut)),
            lambda: Sum((self.distribution(less, cut), Product((self.mask(less), self.distribution(less, cut))))),
            *self.known(["unit", "distribution"], cut),
        )

    def with_bias(self, depth: int, cut: bool) -> Expr:
        own, bias = self.distribution(depth, cut), self.bias(depth)
        return Sum(self.draw(st.sampled_from([(own, bias), (bias, own), (own, Neg(bias))])))

    def contrast(self, depth: int, cut: bool) -> Expr:
        """More of one distribution, less of another."""
        much, little = self.draw(st.sampled_from([(1.5, 0.5), (3.0, 2.0), (1.0, 0.6), (2.0, 1.0)]))
        less = Product((Number(little), self.unit(depth)))
        return Sum((Product((Number(much), self.unit(depth, cut))), Neg(less)))

    def bias(self, depth: int, cut: bool = False) -> Expr:
        """A vector of weight 0."""
        less = depth - 1
        if depth <= 0:
            return self.judge(0) if self.judges else Sum((self.leaf(), Neg(self.leaf())))
        choices = [
            lambda: Sum((self.unit(less), Neg(self.unit(less)))),
            lambda: fn.Pos(self.any(less)),
            lambda: fn.Abs(self.any(less)),
            lambda: Product((self.scalar(less), self.bias(less))),
            lambda: Product((self.mask(less), self.number(), self.bias(less))),
            lambda: fn.Max(self.several(self.bias, less, cut)),
            lambda: fn.Min(self.several(self.bias, less, cut)),
            lambda: Sum(self.several(self.bias, less, cut)),
            lambda: Neg(self.bias(less)),
            lambda: Quotient(self.bias(less), -self.draw(factors)),
            *self.known(["bias"], cut),
        ]
        return self.one(*choices, *[lambda: self.judge(less)] * self.judges)

    def judge(self, depth: int) -> Expr:
        goal, over = self.draw(st.one_of(st.just(1.0), shares)), None
        if depth > 0 and self.draw(st.booleans()):
            over = self.distribution(depth - 1, True)
        return fn.JudgeCall(self.draw(st.sampled_from(self.opinions)), self.draw(st.integers(1, 60)), goal, over)

    def any(self, depth: int) -> Expr:
        """A vector of any weight."""
        return self.one(
            lambda: self.distribution(depth), lambda: self.bias(depth), lambda: Neg(self.distribution(depth))
        )

    def mask(self, depth: int) -> Expr:
        if depth <= 0:
            return fn.Indicator(Sum((self.leaf(), Neg(self.leaf()))))
        less = depth - 1
        return self.one(
            lambda: fn.Indicator(self.any(less)),
            lambda: fn.KLMask(self.distribution(less), self.distribution(less), self.draw(shares)),
            lambda: Product((self.mask(less), self.mask(less))),
            *self.known(["mask"], True),
        )

    def positive(self) -> Expr:
        """A scalar that is well above 0."""
        if not self.strength:
            return self.number()
        shown = fn.Strength(self.draw(st.sampled_from(self.opinions)))
        return self.one(
            self.number, self.number, lambda: Sum((Number(1.0), shown)), lambda: Sum((Number(1.5), Neg(shown)))
        )

    def scalar(self, depth: int) -> Expr:
        if depth <= 0:
            return self.number()
        less = depth - 1
        choices = [
            self.number,
            lambda: Neg(self.scalar(less)),
            lambda: Sum((self.scalar(less), self.scalar(less))),
            lambda: Product((self.scalar(less), self.scalar(less))),
            lambda: Quotient(self.scalar(less), self.draw(factors)),
            *self.known(["scalar"], True),
        ]
        if self.strength:
            choices.append(lambda: fn.Strength(self.draw(st.sampled_from(self.opinions))))
        return self.one(*choices)


def expressions(depth: int = 5, defined: Sequence[str] = ()) -> st.SearchStrategy[Expr]:
    """Trees of every shape that has a text, whether `check` accepts them or not.

    Args:
        defined: names that the formula defines.
    """
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    names = st.one_of(texts, st.sampled_from([*NAMES, "top", "model", "only", "a.b"])).filter(
        lambda name: name not in defined
    )
    sizes = st.one_of(st.sampled_from([0.0, 1.0, 1e-7, 1e6]), st.floats(0, 1e6))
    signed = st.floats(-1e6, 1e6)
    parts = st.lists(st.builds(Part, st.floats(-100, 100), names), min_size=1, max_size=3).map(tuple)
    only = st.builds(Term, parts, texts, st.just(True), st.none() | texts.filter(lambda name: name not in defined))
    leaves = [st.builds(Number, sizes), st.builds(Term, parts), st.builds(Term, parts, texts), only]
    leaves += [names.filter(is_name).map(lambda name: Term((Part(1.0, name),))), st.just(fn.Uniform())]
    leaves += [st.sampled_from(defined).map(Ref)] if defined else []
    judge = st.builds(fn.JudgeCall, texts, st.integers(-9, 10**6), signed)
    leaves += [judge, st.builds(fn.Strength, texts), st.builds(fn.RewardCall, texts)]
    leaves += [st.builds(fn.Ban, st.lists(texts, min_size=1, max_size=3).map(tuple))]

    def larger(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        some, pair = (st.lists(inner, min_size=n, max_size=3).map(tuple) for n in (1, 2))
        divisors = st.one_of(st.floats(1e-6, 1e6), st.floats(-1e6, -1e-6))
        return st.one_of(
            *(st.builds(kind, some) for kind in (fn.Union, fn.Intersect, fn.Max, fn.Min)),
            *(st.builds(kind, pair) for kind in (Sum, Product)),
            *(st.builds(kind, inner) for kind in (Neg, fn.Norm, fn.Pos, fn.Abs, fn.Indicator)),
            st.builds(Quotient, inner, divisors),
            st.builds(fn.Top, inner, st.integers(-9, 10**6), signed, signed, signed),
            st.builds(fn.KLMask, inner, inner, signed),
            st.builds(fn.SelfDebias, inner, inner, signed),
            st.builds(fn.Supersede, inner, inner),
            st.builds(fn.JudgeCall, texts, over=inner),
        )

    return st.recursive(st.one_of(leaves), larger, max_leaves=2**depth)


def _size(node: Expr) -> int:
    own = len(node.mix) if isinstance(node, Term) else 0
    return 1 + own + sum(map(_size, node.children))
