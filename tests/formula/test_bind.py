"""Binding: what the names of a formula stand for, and which of its terms share a row of the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import FormulaError
from mixer.formula.bind import BASE, MOST_BRANCHES, SLIDERS, BoundFormula, Branch, JudgeGoal, bind
from mixer.formula.parser import parse
from mixer.formula.tree import Expr, Formula, Term
from mixer.values.mix import COEFFICIENT_LIMIT, Mix, Setting
from tests.formula.test_parser import TECHNIQUES, place
from tests.formula.trees import NAMES, VOCABULARY, formulas, patient, terms


def bound(text: str) -> BoundFormula:
    return bind(parse(text), VOCABULARY)


def branch(text: str) -> Branch:
    (only,) = bound(text).branches
    return only


def fault(text: str) -> FormulaError:
    with pytest.raises(FormulaError) as caught:
        bound(text)
    return caught.value


def raw(**coefficients: float) -> Mix:
    """`raw(formality_negative=0.5)` is half of formality's negative anchor."""
    return Mix(raw={name.replace("_", "."): c for name, c in coefficients.items()})


def nodes(formula: Formula) -> list[Expr]:
    found = [value for _, value in formula.definitions] + [formula.result]
    for node in found:
        found += node.children
    return found


@patient
@given(formulas(depth=4))
def test_every_needed_name_is_known(formula: Formula):
    found, everything = bind(formula, VOCABULARY), nodes(formula)
    assert set(found.branch_of) <= {node for node in everything if isinstance(node, Term)}
    assert set(found.branches) == (set(found.branch_of.values()) or {BASE}) and len(found.branches) <= MOST_BRANCHES
    assert found.needs_opinions == bool(found.judge_goals)
    for node in found.numbers:
        assert any(node == id(own) for own in everything)


@patient
@given(terms(), terms())
def test_two_terms_are_one_branch_only_if_all_about_them_agrees(a: Term, b: Term):
    found = bind(Formula(a + b), VOCABULARY)
    first, second = found.branch_of[a], found.branch_of[b]
    agrees = (a.prompt or (None, "")[a.only], a.only) == (b.prompt or (None, "")[b.only], b.only)
    assert (first == second) == (agrees and (first.follows, first.mix) == (second.follows, second.mix))
    assert len(found.branches) == 2 - (first == second)


@patient
@given(terms([name for name in NAMES if name != "sliders"]), st.floats(-1, 1))
def test_without_sliders_a_branch_is_what_it_is(term: Term, position: float):
    own = bind(Formula(term), VOCABULARY).branch_of[term]
    assert own.under(Mix({"humor": Setting.at(position)})) == own.mix


@patient
@given(terms(), st.floats(-3, 3), st.floats(-100, 100))
def test_a_branch_follows_the_sliders_by_its_share_and_adds_the_rest(term: Term, position: float, lambda_: float):
    own, sliders = bind(Formula(term), VOCABULARY).branch_of[term], Mix({"humor": Setting.at(position, lambda_)})
    under = own.under(sliders)
    for name in {*sliders.weights, *own.mix.weights}:
        wanted = own.follows * sliders.weights.get(name, 0.0) + own.mix.weights.get(name, 0.0)
        limited = max(-COEFFICIENT_LIMIT, min(wanted, COEFFICIENT_LIMIT))
        assert under.weights.get(name, 0.0) in (pytest.approx(limited), pytest.approx(wanted))


@pytest.mark.parametrize("text", TECHNIQUES)
def test_the_known_techniques_bind(text: str):
    assert bound(text).branches


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("base", Mix()),
        ("formal", raw(formality_positive=1)),
        ("informal", raw(formality_negative=1)),
        ("formality.negative", raw(formality_negative=1)),
        ("formality", raw(formality_positive=1)),
        ("[0.8*formality]", raw(formality_positive=0.8)),
        ("[-0.5*formality]", raw(formality_negative=0.5)),
        ("[-0.5*formal]", raw(formality_positive=-0.5)),
        ("[0.5*formality - 0.75*formality]", raw(formality_negative=0.25)),
        ("[formality - formality]", Mix()),
        ("[0.7*formal + 0.3*polite - 0.1*base]", raw(formality_positive=0.7, politeness_positive=0.3)),
        ("[0.5*formality + 0.25*formal - informal]", raw(formality_positive=0.75, formality_negative=-1)),
        ("<lora:formal:0.7> <lora:rude:-1>", raw(formality_positive=0.7, politeness_negative=-1)),
        ("positive", raw(sentiment_positive=1)),
    ],
)
def test_brackets_mix_weights(text: str, mix: Mix):
    assert branch(text) == Branch(0.0, mix)


def test_sliders_and_base_are_models_too():
    assert branch("sliders") == SLIDERS and branch("base") == BASE
    moved = Mix({"humor": Setting.at(-0.5)})
    assert SLIDERS.under(moved) is moved and BASE.under(moved) == Mix()
    assert branch("[0.5*sliders + 0.3*polite]").under(moved) == raw(humor_negative=0.25, politeness_positive=0.3)
    assert branch("[sliders + 0.5*formal - 0.5*formal]") == SLIDERS


def test_equal_models_are_one_row_and_other_prompts_are_not():
    found = bound('a = formal; 2*[formal] + a + formality.positive + formal @ "" + formal @ "x" + formal @ only("x")')
    assert [(row.prompt, row.only) for row in found.branches] == [(None, False), ("x", False), ("x", True)]
    assert len(bound('[formal] @ only("") + formal').branches) == 2, "no text at all is not the user's text"


def test_what_supersede_drafts_with_is_a_formula_of_its_own():
    found = bound(
        'a = supersede(judge(rude) + base, formal); norm(supersede(a, polite)) + a + ban("x", "y") + ban("x")'
    )
    assert found.draft is not None and found.draft.draft is None
    assert [row.mix for row in found.branches] == [branch("polite").mix, branch("formal").mix]
    assert found.draft.branches == (BASE,) and found.draft.needs_opinions and not found.needs_opinions
    assert found.bans == ("x", "y") and str(found.draft.formula).startswith("a = judge(rude) + base; norm(a) + a")
    assert bound("a = supersede(base, formal); polite").draft is None, "a definition that nobody uses"


def test_judges_go_by_their_names_and_by_what_their_poles_are_called():
    text = "base + judge(politeness) + judge(polite) + strength(rude)*formal + judge(toxic) + judge(nontoxic)"
    found = {str(node): opinion for node, opinion in bound(text).judge_goals.items()}
    assert found == {
        "judge(politeness)": JudgeGoal("politeness"),
        "judge(polite)": JudgeGoal("politeness"),
        "strength(rude)": JudgeGoal("politeness", 0.0),
        "judge(toxic)": JudgeGoal("toxicity"),
        "judge(nontoxic)": JudgeGoal("toxicity", 0.0),
    }


def test_models_and_rewards_are_those_that_are_loaded():
    large = replace(VOCABULARY, models=("large one",), rewards=("calm",))
    found = bind(parse('[base, model="large one"] + base + reward(calm)'), large)
    assert found.branches == (Branch(0.0, model="large one"), Branch(0.0)) and found.reward_branch == Branch(0.0)
    assert "Known: polite" in fault("base + reward(calm)").hint
    assert "None is loaded" in fault("[base, model=large]").hint
    with pytest.raises(FormulaError, match=r"belong to the resident base.*Write \[base, model="):
        bind(parse('[formal, model="large one"]'), large)


@pytest.mark.parametrize(
    ("text", "wrong", "message", "hint"),
    [
        ("sliders +\n  2*fromal", "fromal", "no anchor or attribute called 'fromal'", "Did you mean formal"),
        ("[0.5*formal + 0.25*politness]", "0.25*politness", "called 'politness'", "Did you mean politeness"),
        ("<lora:fromal:0.7>", "<lora:fromal:0.7>", "called 'fromal'", "Did you mean formal"),
        ("base + judge(rudeness)", "judge(rudeness)", "no judge called 'rudeness'", "Did you mean rude"),
        ("toxicity", "toxicity", "no anchor or attribute called 'toxicity'", "write judge(toxicity)"),
        ("a = 2*b; b = formal; a + b", "b", "no anchor or attribute called 'b'", "a definition stands before its use"),
        ("[base, model=x]", "[base, model=x]", "no base model called 'x'", "None is loaded"),
        ("[60*formal + 60*formal]", "[60*formal + 60*formal]", "more than 100 of one anchor", "usual"),
        ("base + [60*sliders + 60*sliders]", "[60*sliders + 60*sliders]", "more than 100", "usual"),
        (
            " + ".join(f"[0.{i + 10}*formal]" for i in range(17)),
            "[0.26*formal]",
            "the 17th different model",
            "Use fewer",
        ),
    ],
)
def test_names_that_stand_for_nothing_are_pointed_at(text: str, wrong: str, message: str, hint: str):
    error = fault(text)
    assert place(error) == wrong and message in error.message and hint in error.hint


def test_names_that_nothing_needs_may_stand_for_nothing():
    assert bound("a = nobody; base").branches == (BASE,)
