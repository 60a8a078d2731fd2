"""Formulas that ask judges about the text. The judges are tables of numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mixer.decoding.evaluate import evaluate
from mixer.errors import FormulaError
from mixer.rewards.heads import likely
from tests.formula.tables import TableReader, bound, models, near, tables, values


def judged(form: str) -> tuple[Tensor, TableReader]:
    """A formula's value, and the reader that was asked for it."""
    reader = TableReader()
    return values(form, reader=reader)[0], reader


def test_a_judge_weighs_the_likeliest_tokens():
    got, reader = judged("base + 2*judge(rude, k=4)")
    (base,) = models("base")
    likeliest = base.topk(4).indices.tolist()
    assert reader.asked == [("politeness", 0.0, tuple(likeliest))]
    expected = base.clone()
    for token in likeliest:
        before, after = (1 - reader.score("politeness", one) for one in (None, token))
        expected[token] += 2 * math.log(after / before)
    assert near(got, torch.log_softmax(expected, -1))


def test_a_judge_reads_what_is_likeliest_without_any_judge():
    """The likeliest tokens are those of the whole formula, or of `over` if given. Tokens cut off are not asked."""
    base, polite = models("base", "polite")
    for form, over in [
        ("base + 3*judge(rude, k=3) - [polite]/2 + judge(polite, k=3)", base - polite / 2),
        ("polite + judge(rude, k=3) - 0.2*union(base, base + judge(rude, k=3))", polite - 0.2 * base),
        ("base + judge(rude, k=3, over=[polite])", polite),
        ("base + judge(rude, k=3, over=base + 0*[polite] + judge(polite, k=3))", base),
    ]:
        tokens = judged(form)[1].asked[0][2]
        assert tokens == tuple(over.topk(3).indices.tolist())
    assert len(judged("base + judge(rude, k=900)")[1].asked[0][2]) == 12
    assert len(judged("top(base, k=2) + judge(rude, k=900)")[1].asked[0][2]) == 2
    assert len(judged("uniform + judge(rude, k=7)")[1].asked[0][2]) == 7


def test_where_a_formula_is_nothing_without_its_judges_they_read_the_first_term_s_likeliest():
    reader, (polite,) = TableReader(), models("polite")
    with pytest.raises(FormulaError, match="for some tokens"):
        values("polite - base + indicator(judge(rude, k=3) + 0.1*polite) * base", reader=reader)
    assert reader.asked[0][2] == tuple(polite.topk(3).indices.tolist())


@pytest.mark.parametrize("goal", [0.0, 0.3, 1.0])
def test_a_goal_is_meant_for_what_the_name_says(goal):
    got, reader = judged(f"base + judge(rude, goal={goal})")
    assert reader.asked[0][:2] == ("politeness", pytest.approx(1 - goal))
    turned, _ = judged(f"base + judge(polite, goal={1 - goal})")
    assert near(got, turned)


def test_strength_is_a_number():
    got, reader = judged("base + strength(nontoxic) * [polite]")
    base, polite = models("base", "polite")
    assert reader.asked == [("toxicity", 0.0, ())]
    share = 1 - reader.score("toxicity", None)
    assert near(got, torch.log_softmax((base + share * polite) / (1 + share), -1))


def test_a_judge_needs_a_reader_and_one_position():
    known = bound("base + judge(polite)")
    for logprobs, reader in [(tables([known]), None), (tables([known], rows=2), TableReader())]:
        with pytest.raises(ValueError, match="opinions"):
            evaluate(known, logprobs, reader)


def test_a_reward_head_is_asked_about_likely_tokens_beside_the_formula_without_it():
    reader = TableReader(3)
    formula = bound("base + [polite] + judge(rude) + 2*reward(politeness) - reward(rude)")
    given = tables([formula], size=40, spread=3.0)
    got = evaluate(formula, given, reader)
    plain = evaluate(bound("base + [polite]"), given)
    some = likely(plain).nonzero()[:, 0]
    asked = [(head, goal) for head, goal, tokens in reader.asked if tokens == tuple(some.tolist())]
    assert asked.count(("politeness", 1.0)) == 1 and asked.count(("politeness", 0.0)) == 1
    without = evaluate(bound("base + [polite] + judge(rude)"), given, TableReader(3))
    added = 3 * TableReader(3).advantages("politeness", 1.0, some, plain[some])
    assert 2 <= len(some) < 40
    assert torch.allclose(got, torch.log_softmax(without.scatter_add(0, some, added / 2), -1), atol=1e-4)
