"""The check: which trees it refuses, and what its report says about weights."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import FormulaError
from mixer.formula import functions as fn
from mixer.formula.analysis import Analyzer
from mixer.formula.check import Report, check
from mixer.formula.parser import parse
from mixer.formula.tree import Expr, Formula, Neg, Number, Part, Product, Quotient, Ref, Sum, Term
from tests.formula.test_parser import TECHNIQUES, place
from tests.formula.trees import formulas, patient

BASE = Term((Part(1.0, "base"),))
plain = formulas(depth=3, ban=False)
untouched = formulas(depth=3, ban=False, top=False)


def report(text: str) -> Report:
    return check(parse(text))


def fault(formula: Formula | str) -> FormulaError:
    with pytest.raises(FormulaError) as caught:
        check(parse(formula) if isinstance(formula, str) else formula)
    return caught.value


def changed(formula: Formula, result: Expr) -> Formula:
    return Formula(result, formula.definitions)


@patient
@given(formulas(depth=4))
def test_sound_formulas_are_sound_and_say_the_same_as_trees_and_as_text(formula: Formula):
    assert check(formula) == check(parse(str(formula)))


@patient
@given(formulas(depth=3, strength=False))
def test_the_weights_of_the_summands_add_up(formula: Formula):
    found, analyzer = check(formula), Analyzer(formula)
    analyzer.analyze_formula("formula")
    weights = [analyzer.analyze(summand.node).weight.point for summand in found.summands]
    factors = [summand.factor for summand in found.summands]
    if found.weight is not None and None not in weights:
        total = sum(factor * weight for factor, weight in zip(factors, weights, strict=True))  # type: ignore[operator]
        assert math.isclose(total, found.weight, rel_tol=1e-9)


@patient
@given(plain, st.floats(0.1, 10))
def test_a_common_factor_changes_the_weight_and_no_exponent(formula: Formula, factor: float):
    once, scaled = check(formula), check(changed(formula, Product((Number(factor), formula.result))))
    halved = check(changed(formula, Quotient(formula.result, 1 / factor)))
    for other in (scaled, halved):
        if once.weight is None or other.weight is None:
            assert once.weight is other.weight is None
            continue
        assert math.isclose(other.weight, factor * once.weight)
        for before, after in zip(once.summands, other.summands, strict=True):
            assert before.node == after.node
            assert before.exponent == after.exponent or math.isclose(before.exponent, after.exponent)  # type: ignore


@patient
@given(plain)
def test_a_definition_weighs_what_it_stands_for(formula: Formula):
    named = Formula(Ref("whole"), (*formula.definitions, ("whole", formula.result)))
    assert check(named).weight == check(formula).weight


@patient
@given(untouched, st.floats(0, 10))
def test_weights_that_add_up_to_nothing_or_less_are_refused(formula: Formula, less: float):
    weight = check(formula).weight
    if weight is not None:
        taken = Product((Number(weight + less), BASE))
        assert (
            "The weights of the formula add up to" in fault(changed(formula, Sum((formula.result, Neg(taken))))).message
        )
        check(changed(formula, Sum((formula.result, Neg(Product((Number(weight / 2), BASE)))))))


@patient
@given(untouched, st.booleans())
def test_what_top_cuts_off_is_never_taken_away(formula: Formula, cut: bool):
    taken = fn.Norm(fn.Top(formula.result, k=5)) if cut else fn.Norm(formula.result)
    contrast = changed(formula, Sum((Product((Number(2.0), BASE)), Neg(taken))))
    if cut:
        assert "infinitely likely" in fault(contrast).message
    else:
        check(contrast)


WEIGHTS = [1, 0.4, 1, 1, 1, 1, 0.04, 0.04, 2.4, 1, 1]
EXPONENTS = [[1.5, -0.5], [2.5, -1.5], [1, 2, -2], [1, 0.8, -0.8], [1, 2], [1], [25, -24], [25, -24, 1]]
EXPONENTS += [[1 / 2.4, -0.25, 2 / 2.4], [1], [1.5, -0.5]]


@pytest.mark.parametrize(
    ("text", "weight", "exponents"), list(zip(TECHNIQUES, WEIGHTS, EXPONENTS, strict=True)), ids=TECHNIQUES
)
def test_the_known_techniques_weigh(text: str, weight: float, exponents: list[float]):
    found = report(text)
    assert found.weight == pytest.approx(weight)
    assert [summand.exponent for summand in found.summands] == pytest.approx(exponents)
    assert bool(found.warnings) == (weight < 0.2)


def test_summands_are_shown_as_they_are_written_with_their_places():
    text = "a = formal - rude; sliders + 2*(polite - 0.5*a)/4 + 3*indicator(formal - base)*2*union(base, polite)"
    found = report(text)
    assert [(one.text, one.factor) for one in found.summands] == [
        ("sliders", 1), ("polite", 0.5), ("a", -0.25), ("indicator(formal - base) * union(base, polite)", 6),
    ]  # fmt: skip
    places = [text[slice(*one.node.span)] for one in found.summands]
    assert places[:3] == ["sliders", "polite", "a"]
    assert (found.weight, found.summands[0].exponent) == (None, None), "the mask of each token decides"


def test_what_the_text_decides_is_left_open():
    found = report("base + strength(rude)*polite - 0.25*formal")
    assert found.weight is None and [one.factor for one in found.summands] == [1, None, -0.25]
    assert report("(1 - strength(rude))*base + strength(rude)*polite").weight is None
    assert report("norm(strength(rude)*polite + base)").weight == 1
    assert report("2*base - union(formal, 1.5*polite)").weight is None
    assert report("strength(rude)*(formal - polite) + base").weight == 1, "whatever it is, it cancels out"


def test_the_target_of_supersede_is_what_is_weighed():
    found = report('supersede(base, 2*sliders - rude)/2 + ban("x")')
    assert found.weight == 0.5
    assert [(one.text, one.factor, one.exponent) for one in found.summands] == [("sliders", 1, 2), ("rude", -0.5, -1)]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "base - 0.96*union(base, rude)",
            "The weights add up to only 0.04, and dividing by that makes the formula sharp: p to the power of 25.",
        ),
        ("[0*formal + polite]", "formal has the weight 0 in [0*formal + polite] and does nothing."),
        ("a = base; b = a + rude; polite", "a is defined and not used."),
        ("a = base; b = [0*formal] + rude; b", "a is defined and not used."),
    ],
)
def test_what_is_sound_and_odd_is_warned_of(text: str, warning: str):
    assert any(own.startswith(warning) for own in report(text).warnings)
    assert report("a = base; 0.1*a + [0.1*formal] - 0.05*rude").warnings == (), "the same as 2*a + 2*[...] - rude"


# Each formula, the characters that its error points at, and words of the message.
FAULTS = [
    ("2", "2", "A number stands where a term has to stand"),
    ("strength(polite) - 1", "strength(polite) - 1", "A number stands where a term has to stand"),
    ("base + 2", "2", "A number cannot be added to a term"),
    ("2 - strength(rude) + base", "2", "A number cannot be added to a term"),
    ("base * polite", "polite", "Two terms cannot be multiplied"),
    ("2 * base * indicator(base) * judge(polite)", "judge(polite)", "Two terms cannot be multiplied"),
    ("union(base, 2)", "2", "A number stands where a term has to stand"),
    ("indicator(base)", "indicator(base)", "A mask stands where a term has to stand"),
    ("base + indicator(base)", "indicator(base)", "A mask cannot be added"),
    ("pos(2*indicator(base)) + base", "2*indicator(base)", "A mask stands where a term has to stand"),
    ("formal - polite", "formal - polite", "The weights of the formula add up to 0."),
    ("0.1*base + 0.2*formal - 0.3*rude", "0.1*base + 0.2*formal - 0.3*rude", "formula add up to 0."),
    ("0.5*base - 0.7*rude", "0.5*base - 0.7*rude", "formula add up to -0.2."),
    ("judge(polite)", "judge(polite)", "formula add up to 0."),
    ("-strength(rude)*base", "-strength(rude)*base", "formula add up to at most 0."),
    ("a = formal - rude; a", "a", "formula add up to 0."),
    ('ban("x")', 'ban("x")', "formula add up to 0."),
    ("0.0000001*0.0000001*base", "0.0000001*0.0000001*base", "formula add up to 0."),
    ("union(base, judge(polite))", "judge(polite)", "The weights of this part of union add up to 0."),
    ("intersect(base, formal - 2*rude)", "formal - 2*rude", "this part of intersect add up to -1."),
    ("norm(formal - rude)", "formal - rude", "norm"),
    ("top(-base)", "-base", "top"),
    ("klmask(base, formal - rude)*base", "formal - rude", "klmask"),
    ("selfdebias(pos(base), base, 1)", "pos(base)", "selfdebias"),
    ("selfdebias(base, pos(base), 1)", "pos(base)", "selfdebias"),
    ("base + judge(polite, over=formal - rude)", "formal - rude", "judge"),
    ("supersede(formal - rude, base)", "formal - rude", "The weights of the draft add up to 0."),
    ("supersede(0.1*base, polite) - 0.5*rude", "supersede(0.1*base, polite) - 0.5*rude", "the draft add up to -0.4."),
    ("supersede(2, base)", "2", "A number stands where a term has to stand"),
    ("2*base - top(base)", "top(base)", "infinitely likely"),
    ("a = top(base); 2*base - a", "a", "infinitely likely"),
    ("2*base + (1 - 3)*top(base, k=5)", "top(base, k=5)", "infinitely likely"),
    ("2*base + norm(top(base))/-2", "norm(top(base))", "infinitely likely"),
    ("2*base - strength(rude)*top(base)", "strength(rude)*top(base)", "infinitely likely"),
    ("2*base - indicator(rude - base)*top(base)", "indicator(rude - base)*top(base)", "infinitely likely"),
    ("2*base - intersect(top(base), polite)", "intersect(top(base), polite)", "infinitely likely"),
    ("2*base - union(top(base), top(rude))", "union(top(base), top(rude))", "infinitely likely"),
    ("2*base - selfdebias(top(base), rude, 1)", "selfdebias(top(base), rude, 1)", "infinitely likely"),
    ("2*base + abs(top(base))", "top(base)", "infinitely likely"),
    ("base + 2*ban('x')", "ban('x')", "ban stands alone"),
    ("base - ban('x')", "ban('x')", "ban stands alone"),
    ("a = base + ban('x'); a", "ban('x')", "ban stands alone"),
    ("norm(base + ban('x'))", "ban('x')", "ban stands alone"),
    ("supersede(base + ban('x'), sliders)", "ban('x')", "ban stands alone"),
    ("base + ban('x', ' ')", "ban('x', ' ')", "Nothing stands in the quotes"),
    ("top(base, k=-1)", "top(base, k=-1)", "k of top is -1"),
    ("top(base, p=1.01)", "top(base, p=1.01)", "p of top is 1.01"),
    ("top(base, minp=-0.1)", "top(base, minp=-0.1)", "minp of top is -0.1"),
    ("top(base, t=0)", "top(base, t=0)", "t of top is 0"),
    ("base + judge(polite, k=0)", "judge(polite, k=0)", "k of judge is 0"),
    ("base + judge(polite, goal=2)", "judge(polite, goal=2)", "goal of judge is 2"),
    ("selfdebias(base, base, -1)", "selfdebias(base, base, -1)", "strength of selfdebias is -1"),
    ("klmask(base, base, -1)*base", "klmask(base, base, -1)", "divergence of klmask is -1"),
    ("1000000*1000000*base", "1000000*1000000*base", "more than 1,000,000,000"),
    ("base + 1000000*1000*2*judge(polite)", "1000000*1000*2*judge(polite)", "more than 1,000,000,000"),
    ("base\n + 2*\n  (formal - top(rude))", "top(rude)", "infinitely likely"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wrong", "message"), FAULTS)
def test_what_cannot_stand_where_it_stands_is_pointed_at(text: str, wrong: str, message: str):
    error = fault(text)
    assert place(error) == wrong and message in error.message and error.hint.endswith(".")


@pytest.mark.parametrize(
    "text",
    [
        "2*base - union(top(base, k=1), polite)",
        "2*base + pos(top(base)) - pos(top(rude))",
        "2*base - indicator(top(base))*polite",
        "2*base - 0*top(base) - (1 - 1)*top(rude)",
        "base + (strength(rude) - 0.5)*top(base)",
        "2*base - selfdebias(base, top(rude), 1)",
        "2*base - judge(polite, over=top(base))",
        "base + min(judge(polite), judge(rude)) - abs(formal - rude)",
        "base + (2*indicator(formal - base))*indicator(rude - base)*polite/2",
        "supersede(base, (sliders + ban('x')) + ban('y'))",
        "base + supersede(judge(polite, k=5), judge(polite))",
        "top(base, k=0, p=0, minp=1, t=0.5)",
        "klmask(base, polite, 0)*base + base",
        "a = 2; b = indicator(polite - base); c = formal - rude; base + a*b*c",
    ],
)
def test_what_can_stand_where_it_stands_is_sound(text: str):
    assert report(text).summands


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (Formula(Ref("a")), "'a' is not defined"),
        (Formula(Ref("a"), (("a", Ref("b")), ("b", BASE))), "'b' is not defined"),
        (Formula(Quotient(BASE, 0.0)), "divided by 0"),
        (Formula(fn.Top(BASE, p=math.nan)), "p of top is nan"),
    ],
)
def test_trees_that_no_text_gives_are_looked_at_too(formula: Formula, message: str):
    assert message in fault(formula).message
