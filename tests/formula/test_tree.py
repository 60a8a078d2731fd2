"""Laws of the tree: its text parses to the same tree, and equal trees print alike."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import InvalidValue
from mixer.formula import functions as fn
from mixer.formula.parser import parse
from mixer.formula.tree import Formula, Neg, Number, Part, Product, Quotient, Ref, Sum, Term, expr, number
from tests.formula.trees import expressions, formulas, patient


def term(name: str, weight: float = 1.0, **options) -> Term:
    return Term((Part(weight, name),), **options)


A, B, C = term("a"), term("b"), term("c")


@patient
@given(expressions())
def test_trees_of_every_shape_read_back_from_what_they_print(tree):
    assert parse(str(tree)).result == tree


@patient
@given(expressions(depth=2), expressions(depth=3, defined=["a"]), expressions(depth=3, defined=["a", "größe"]))
def test_definitions_read_back_too(first, second, result):
    formula = Formula(result, (("a", first), ("größe", second)))
    # No text gives a term with the name of an earlier definition, so `expressions` makes none.
    assert parse(str(formula)) == formula


@patient
@given(formulas(depth=4))
def test_sound_formulas_read_back_and_print_the_same_again(formula):
    again = parse(str(formula))
    assert again == formula and hash(again) == hash(formula) and str(again) == str(formula)


@patient
@given(st.floats(0, allow_infinity=False))
def test_numbers_print_without_an_exponent_and_without_loss(value):
    assert float(number(value)) == value and "e" not in number(value)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_a_number_is_finite_and_not_negative(bad):
    with pytest.raises(InvalidValue, match="no number of a formula"):
        Number(bad)


@patient
@given(expressions(depth=3))
def test_nodes_can_be_changed_from_inside(tree):
    def same(node):
        return node.with_children(same)

    assert same(tree) == tree
    assert len(tree.children) == len(same(tree).children)


def test_operators_build_the_tree_that_the_text_does():
    built = 2 * A + B - C / 3 + (A - B) * 0.5 - -A
    assert built == parse("2*a + b - c/3 + (a - b)*0.5 - -a").result
    assert parse("(1 + a)*-2 - a").result == (1 + A) * -2 - A
    assert parse("1 - a").result == 1 - A and expr(-0.0) == Number(0.0)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (A + B + C, "a + b + c"),
        (Sum((Sum((A, B)), C)), "(a + b) + c"),
        (Sum((Neg(A), Neg(Neg(B)))), "-a - (-b)"),
        (Product((Product((A, B)), C)), "(a * b) * c"),
        (Product((A, Quotient(B, -2.0))), "a * (b / -2)"),
        (Quotient(Product((A, B)), 0.5), "a * b / 0.5"),
        (Quotient(Neg(A), 2.0), "(-a) / 2"),
        (Neg(Product((Neg(A), B))), "-(-a) * b"),
        (Number(-0.0), "0"),
        (Number(1e-7), "0.0000001"),
        (term("a", -0.5), "[-0.5*a]"),
        (Term((Part(0.7, "a"), Part(-1.0, "b"), Part(1.0, "c"))), "[0.7*a - b + c]"),
        (term("my-anchor"), '["my-anchor"]'),
        (term("a.b.1"), "a.b.1"),
        (term("union"), "[union]"),
        (term("only", prompt=""), '[only] @ ""'),
        (term("a", prompt='Say "hi"\n', only=True), '[a] @ only("Say \\"hi\\"\\n")'),
        (term("base", model="big one"), '[base, model="big one"]'),
        (fn.JudgeCall("my-judge", k=7, goal=0.25, over=A - B), 'judge("my-judge", k=7, goal=0.25, over=a - b)'),
        (fn.Top(A, k=-1, t=0.5), "top(a, k=-1, t=0.5)"),
        (fn.SelfDebias(A, B, -1.0), "selfdebias(a, b, -1)"),
        (fn.Union((A, Ref("x") + B)), "union(a, x + b)"),
        (fn.Uniform(), "uniform"),
        (fn.Ban(("a b", "ü")), 'ban("a b", "ü")'),
    ],
)
def test_trees_print_as_people_write(tree, text):
    assert str(tree) == text
    assert "x" in text or parse(text).result == tree
