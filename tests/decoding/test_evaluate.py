"""Laws of formula evaluation, and agreement with a float64 reference that was written independently."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixer.decoding.evaluate import evaluate
from mixer.decoding.sampler import warp
from mixer.errors import FormulaError
from mixer.formula import functions as fn
from mixer.formula.tree import Expr, Formula, Neg, Number, Part, Product, Ref, Sum, Term
from mixer.values.sampling import SamplingParams
from tests.formula.reference import Reference, Refused
from tests.formula.tables import TableReader, bound, models, near, tables, values
from tests.formula.trees import formulas

BASE, POLITE, RUDE = (Term((Part(1.0, name),)) for name in ("base", "polite", "rude"))
FORMS = [  # every function except those of judges and rewards, over a few terms
    "base + 2*([positive] - [negative])",
    "base - 0.96*union(base, [negative])",
    "[formal] - 0.6*[informal] + 2*union([formal], 0.5*[humorous])",
    "2*intersect(base, [polite], 0.3*[rude]) + max([formal], 2*[polite]) + min(base, [rude])",
    "1.5*top(sliders, minp=0.1) - 0.5*base",
    "norm(top([formal], k=40, p=0.9, t=0.7) + base) / 3 + pos(base - [polite]) - abs(base - [rude])",
    "base + indicator([polite] - base) * [polite] + 0.5 * klmask(base, [polite], 0.0001) * [rude]",
    "selfdebias(base, [base] @ 'rude', 10) + 0.8*[formal] - 0.8*uniform + ban('no')",
]


def written_out(formula: Formula) -> Expr:
    """The result of a formula, with every name replaced by its definition."""
    definitions: dict[str, Expr] = {}

    def visit(node: Expr) -> Expr:
        return definitions[node.name] if isinstance(node, Ref) else node.with_children(visit)

    for name, value in formula.definitions:
        definitions[name] = visit(value)
    return visit(formula.result)


law = settings(max_examples=25)
sizes, seeds = st.integers(3, 40), st.integers(0, 2**31)
trees = formulas(depth=2, ban=False, judges=False).map(written_out)
plain = formulas(depth=2, ban=False, judges=False, top=False, supersede=False).map(written_out)


@st.composite
def doubtful(draw: st.DrawFn) -> Formula:
    """Formulas that may have no value: weights may fall to 0, and tokens that were cut off may be subtracted."""
    formula = draw(formulas(depth=3))
    less = draw(st.sampled_from([formula.result, BASE, fn.Union((formula.result, BASE)), fn.Top(BASE, k=2)]))
    factor = draw(st.sampled_from([Number(0.3), Number(1.2), fn.Strength("rude") - Number(0.3)]))
    taken = Sum((formula.result, Neg(Product((factor, less)))))
    result = draw(st.sampled_from([taken, fn.Union((taken, BASE)), fn.Intersect((taken, fn.Top(BASE, k=1)))]))
    return Formula(result, formula.definitions)


def agrees(formula: Formula, size: int, seed: int, spread: float) -> None:
    known, reader = bound(formula), TableReader(seed)
    logprobs = tables([known], size, seed, spread)
    reference = Reference(known, {branch: table.numpy() for branch, table in logprobs.items()}, reader.score)
    try:
        expected = reference.result()
    except Refused:
        expected = None
    event("near a jump" if reference.margin < 1e-5 else "refused" if expected is None else "has a value")
    assume(reference.margin >= 1e-5)
    if expected is None:
        with pytest.raises(FormulaError):
            evaluate(known, logprobs, reader)
        return
    logprob, error = expected
    got = evaluate(known, logprobs, reader).numpy()
    seen = logprob > -60
    event("float32 may lose 1e-4" if error[seen].max() > 1e-4 else "within 1e-4")
    assert (np.abs(got[seen] - logprob[seen]) <= np.maximum(1e-4, error[seen])).all()
    assert (got[~seen] < -55).all()


@settings(max_examples=60)
@given(formulas(depth=5), sizes, seeds, st.sampled_from([0.3, 2.0, 6.0]))
def test_a_sound_formula_has_the_reference_s_value(formula, size, seed, spread):
    agrees(formula, size, seed, spread)


@settings(max_examples=60)
@given(doubtful(), sizes, seeds)
def test_a_formula_is_refused_just_where_the_reference_has_no_value(formula, size, seed):
    agrees(formula, size, seed, 2.0)


@settings(max_examples=60)
@given(sizes, seeds, st.sampled_from([5.0, 20.0, 60.0]), st.sampled_from([0.01, 0.5, 20.0]), st.integers(0, 3))
def test_klmask_holds_where_a_token_is_nearly_certain_or_impossible(size, seed, spread, divergence, cut):
    """Compared with leaving out each token in turn. Probabilities reach e^-200; one side may cut off some tokens."""
    known = bound(fn.Uniform() + fn.KLMask(BASE, POLITE, divergence) * fn.Norm(BASE + fn.Uniform()))
    logprobs = tables([known], size, seed, spread)
    generator = torch.Generator().manual_seed(seed)
    for table in logprobs.values():
        table[torch.randperm(size, generator=generator)[: min(cut, size - 1)]] = -math.inf
        table -= table.logsumexp(-1)
    reference = Reference(known, {branch: table.numpy() for branch, table in logprobs.items()})
    logprob, _ = reference.result()
    assume(reference.margin >= 1e-5)
    assert near(evaluate(known, logprobs), torch.from_numpy(logprob))


@law
@given(trees, st.floats(0.01, 100), seeds)
def test_scaling_a_formula_changes_nothing(tree, factor, seed):
    one, scaled, divided = values(tree, factor * tree, tree / factor, seed=seed, reader=TableReader())
    assert near(one, scaled) and near(one, divided)


@law
@given(plain, plain, seeds)
def test_weights_are_divided_by_their_sum(a, b, seed):
    one, other = values(fn.Norm(a) + fn.Norm(b), 2 * fn.Norm(a) + 2 * fn.Norm(b), seed=seed, reader=TableReader())
    assert near(one, other)


@law
@given(trees, seeds)
def test_norm_changes_no_value_and_a_second_one_nothing(tree, seed):
    one, norm, twice = values(tree, fn.Norm(tree), fn.Norm(fn.Norm(tree)), seed=seed, reader=TableReader())
    assert torch.equal(one, norm) and torch.equal(norm, twice)


@law
@given(trees, trees, trees, seeds)
def test_a_union_is_of_a_set(a, b, c, seed):
    """For parts of equal weight. `max` may be nested; `union` may not, since it normalizes its parts."""
    a, b, c = map(fn.Norm, (a, b, c))
    for kind in (fn.Union, fn.Intersect):
        forms = [kind((a, b, c)), kind((c, a, b)), kind((b, a, c, a)), kind((a, a)), a]
        try:
            one, turned, doubled, same, alone = values(*forms, seed=seed, reader=TableReader())
        except FormulaError:  # no token is left: each part cuts off what the other keeps
            continue
        assert torch.equal(one, turned) and torch.equal(one, doubled)
        assert near(same, alone)
    inside, flat = values(fn.Max((fn.Max((a, b)), c)), fn.Max((a, b, c)), seed=seed, reader=TableReader())
    assert torch.equal(inside, flat)


@law
@given(plain, plain, seeds)
def test_an_intersection_lies_below_a_union(a, b, seed):
    a, b = fn.Norm(a), fn.Norm(b)
    above = fn.Pos(fn.Intersect((a, b)) - fn.Union((a, b)))
    between = fn.Abs(a - b) - (fn.Union((a, b)) - fn.Intersect((a, b)))
    one, same, also = values(BASE, BASE + above, BASE + between, seed=seed, reader=TableReader())
    assert near(one, same) and near(one, also)


@law
@given(plain, plain, seeds)
def test_the_larger_and_the_smaller_of_two_are_both(a, b, seed):
    x, y = a - fn.Norm(b), fn.Norm(b) - 2 * BASE
    one, same = values(5 * BASE + x + y, 5 * BASE + fn.Max((x, y)) + fn.Min((x, y)), seed=seed, reader=TableReader())
    assert near(one, same)


@pytest.mark.parametrize("kind", [fn.Max, fn.Min])
def test_of_equals_the_first_counts_with_its_weight(kind):
    heavy, light = BASE, -fn.Abs(BASE)  # equal totals, with the weights 1 and 0
    one, same = values(BASE, kind((heavy, light)))
    assert near(one, same)
    with pytest.raises(FormulaError, match="add up to 0"):
        values(kind((light, heavy)))


@law
@given(trees, trees, seeds)
def test_nothing_times_anything_is_nothing(a, b, seed):
    """Also where one of its tokens is cut off, or a minus stands before it."""
    forms = [a, a - 0 * b, a + 0 * fn.Top(b, k=1), a - 0 * fn.Top(BASE, k=1), a + (Number(1) - Number(1)) * b]
    one, *others = values(*forms, seed=seed, reader=TableReader())
    assert all(near(one, other) for other in others)


def test_what_is_cut_off_may_be_taken_away_where_a_mask_leaves_it_out():
    base, polite = models("base", "polite")
    _, second, third = base.topk(3).values.tolist()
    cut = -(second + third) / 2 / math.log(len(base))  # in units of `uniform`'s log-probability
    (got,) = values(POLITE - 0.5 * fn.Indicator(BASE - cut * fn.Uniform()) * fn.Top(BASE, k=2))
    kept = base >= second
    top = torch.log_softmax(base.where(kept, -math.inf), -1)
    assert near(got, torch.log_softmax(torch.where(kept, 2 * polite - top, polite), -1))


@law
@given(seeds, st.floats(0.1, 3))
def test_uniform_adds_weight_alone(seed, power):
    (got,) = values(BASE + power * POLITE - power * fn.Uniform(), seed=seed)
    m, r = models("base", "polite", seed=seed)
    assert near(got, torch.log_softmax(m + power * r, -1))


@law
@given(plain, plain, seeds)
def test_a_superseding_formula_is_its_target(draft, target, seed):
    known = [bound(fn.Supersede(draft, target)), bound(target), bound(draft)]
    assert known[0].branches == known[1].branches and known[0].draft is not None
    logprobs = tables(known, seed=seed)
    got, target_s, draft_s = (evaluate(one, logprobs, TableReader()) for one in known)
    assert torch.equal(got, target_s) and torch.equal(evaluate(known[0].draft, logprobs, TableReader()), draft_s)


@law
@given(seeds, st.integers(1, 30), st.floats(0.05, 1), st.floats(0, 0.5), st.floats(0.3, 3))
def test_top_cuts_as_sampling_does(seed, k, p, minp, t):
    (got,) = values(fn.Top(2 * BASE - POLITE, k, p, minp, t), seed=seed, size=20)
    base, polite = models("base", "polite", seed=seed, size=20)
    options = SamplingParams(top_k=k, top_p=p, min_p=minp, temperature=t)
    kept, wanted = got > -math.inf, warp(torch.log_softmax(2 * base - polite, -1).float(), options)
    assume(torch.equal(kept, wanted > -math.inf))  # rounding may move the cut
    assert near(got[kept], wanted[kept])


def test_known_techniques_are_what_their_papers_say():
    """Compared with float64 arithmetic written out by hand."""

    def softmax(logits: Tensor) -> Tensor:
        return torch.log_softmax(logits, -1)

    m, t = models("base", "negative")
    (got,) = values("base - 0.96*union(base, [negative])")
    assert near(got, softmax(m + 24 * torch.minimum(torch.zeros_like(m), m - t)))  # m * min(1, m/t)^24
    (got,) = values("base + 2*([negative] - [formal])")
    m, plus, minus = models("base", "negative", "formal")
    assert near(got, softmax(m + 2 * (plus - minus)))
    (got,) = values("selfdebias(base, [negative], 10)")
    assert near(got, softmax(m + 10 * (m.exp() - plus.exp()).clamp(max=0)))
    (got,) = values("1.5*top(base, minp=0.1) - 0.5*[negative]")
    kept = torch.where(m >= m.max() + math.log(0.1), m, -math.inf)
    assert near(got, softmax(1.5 * softmax(kept) - 0.5 * plus))
    (got,) = values("2*union(base, 0.5*[negative])")
    own = torch.where(plus > m, 0.5, 1.0)
    assert near(got, softmax(torch.maximum(m, plus)))
    (got,) = values("base + union(base, 0.5*[negative])")
    assert near(got, softmax((m + own * torch.maximum(m, plus)) / (1 + own)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows, size", [(1, 12), (5, 12), (3, 20_000)])
def test_positions_have_the_same_bits_alone_and_together(form, rows, size):
    known = bound(form)
    logprobs = tables([known], size, rows=rows, spread=3.0)
    together = evaluate(known, logprobs)
    assert together.shape == (rows, size) and together.dtype == torch.float32
    for row in range(rows):
        alone = evaluate(known, {branch: table[row] for branch, table in logprobs.items()})
        assert torch.equal(together[row], alone)


@pytest.mark.parametrize("form", FORMS)
def test_all_is_float32_and_leaves_no_trace(form):
    known = bound(form)
    halves = {branch: table.bfloat16() for branch, table in tables([known]).items()}
    before = {branch: table.clone() for branch, table in halves.items()}
    wide = {branch: table.float().requires_grad_() for branch, table in halves.items()}
    got, same = evaluate(known, halves), evaluate(known, wide)
    assert got.dtype == torch.float32 and torch.equal(got, same) and not same.requires_grad
    assert all(torch.equal(halves[branch], table) for branch, table in before.items())


def test_what_is_written_twice_is_computed_once():
    """Each definition uses the one before it twice. Written out, this formula has 2^30 terms."""
    reader = TableReader()
    once = "a = judge(polite, over=base); base + strength(rude) * (judge(polite, over=base) + a)"
    values(f"{once} + strength(rude) * union(base, base + a)", reader=reader)
    assert [judge for judge, _, _ in reader.asked] == ["politeness", "politeness"]
    doubled = [("x0", BASE), *((f"x{i}", Ref(f"x{i - 1}") + Ref(f"x{i - 1}")) for i in range(1, 31))]
    start = time.perf_counter()
    one, same = values(BASE, Formula(Ref("x30"), tuple(doubled)))
    assert near(one, same) and time.perf_counter() - start < 1


def toxic(least: float, most: float) -> TableReader:
    """Opinions on a text whose toxicity lies between these two."""
    return next(r for r in map(TableReader, range(999)) if least < r.score("toxicity", None) < most)


@pytest.mark.parametrize(
    "form, marked, message",
    [
        ("1.6*base - 2*union(base, 0.5*[negative])", "1.6*base - 2*union(base, 0.5*[negative])", "add up to -0.4 for"),
        ("base + union(base, (strength(toxic) - 0.9)*[polite])", "(strength(toxic) - 0.9)*[polite]", "The weights"),
        ("base + (strength(toxic) - 0.5)*top(base, k=2)", "base + (strength(toxic) - 0.5)*top(base, k=2)", "cut off"),
        ("base + norm(strength(toxic)*top(base, k=2) - base*(strength(toxic)))", "", "The weights"),
        ("intersect(top(base, k=1), top([polite], k=1))", "intersect(top(base, k=1), top([polite], k=1))", "No token"),
        ("a = 3*base - 4*intersect(base, 0.5*base - 1*(polite - base)/9);\nnorm(a)", "", "The weights"),
    ],
)
def test_what_shows_only_now_is_refused_at_its_place(form, marked, message):
    with pytest.raises(FormulaError, match=message) as caught:
        values(form, reader=toxic(0.1, 0.3))
    if marked:
        start = caught.value.column - 1
        assert form[start : start + caught.value.length] == marked and caught.value.hint


def test_a_factor_above_nothing_lets_cut_tokens_pass():
    form = "base + (strength(toxic) - 0.5)*top(base, k=2)"
    (got,) = values(form, reader=toxic(0.7, 0.9))
    assert (got > -math.inf).sum() == 2


@pytest.mark.parametrize(
    "tree",
    [
        0.1 * BASE + 0.2 * POLITE - 0.3 * RUDE,
        (0.1 * BASE + 0.2 * POLITE) * fn.Indicator(BASE - BASE) - 0.3 * RUDE,
        BASE - POLITE,
        0.04 * BASE - 0.96 * POLITE,
        1e6 * BASE - 999_999.5 * POLITE,
        fn.Union((BASE, POLITE)) - fn.Intersect((BASE, POLITE)),
        fn.Ban(("no",)),
    ],
)
def test_weights_that_come_to_nothing_are_refused_however_they_are_rounded(tree):
    """0.1 + 0.2 - 0.3 is 5.6e-17 in floating point. Divided by it, one token would get all the probability."""
    for part in (tree, fn.Norm(tree), fn.Union((BASE, tree)), BASE + fn.Top(tree, k=1)):
        with pytest.raises(FormulaError, match=r"add up to (0|-0\.92)( for some tokens)?\."):
            values(part)
