"""Reward sliders on texts in flight: each acts on the next token of its own text, within its budget; 0 does nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixer import Desk, Session, Steering
from mixer.errors import InvalidValue, UnknownName, Unsupported
from mixer.rewards.heads import fused_matrix
from mixer.rewards.reference import divergence
from tests.decoding.conftest import PROMPTS, params, renew, same, trace
from tests.decoding.test_reward_rows import loaded  # noqa: F401  (the fixture that `desk` renews)
from tests.rewards.test_rad import make_teacher

STRONG = Steering({"humor": 2.0, "toxicity": -1.0}, budget=None)
WARM = replace(params(12), temperature=1.0, top_p=1.0)


def follow(desk: Desk, session: Session, formula: str | None = None) -> list[tuple[float, float, float]]:
    """Run a session, and compare each step with uncached passes over its text.

    Returns:
        For each step: the error of its log-probability, the error of its nats, and its nats. A step is left out where
        the decoded text does not give the same tokens again.
    """
    found = []
    for step in session:
        ids = session.token_ids[:-1]
        text = session.prompt + desk.tokenizer.decode(ids, skip_special_tokens=True)  # type: ignore[operator]
        if desk.tokenizer(text).input_ids == session.prompt_ids + ids:
            steered = desk.logprobs(text, session.mix, formula, session.steering)
            bare = None if session.steering.whole else session.mix
            plain = desk.logprobs(text, bare, None if session.steering.whole else formula)
            nats = float(divergence(plain, steered.double() - plain))
            found.append((step.logprob - float(steered[step.token_id]), step.nats - nats, step.nats))
    return found


@pytest.mark.parametrize("formula", [None, "sliders + 0.3*[humor]"])
def test_strength_0_is_sampling_without_heads_bit_for_bit(desk: Desk, formula: str | None):
    mix = desk.mix(formality=0.5)
    renew(desk)
    plain = trace(desk.session(PROMPTS[0], mix, params(16), formula=formula))
    for rest in (Steering(), Steering({"humor": 0.0, "toxicity": 0.0}, budget=0.0), Steering(fused=True)):
        renew(desk)  # so that no text finds its prompt in the prefix cache
        assert trace(desk.session(PROMPTS[0], mix, params(16), formula=formula, steering=rest)) == plain
    assert trace(desk.session(PROMPTS[0], mix, params(16), formula=formula, steering=STRONG)) != plain


@pytest.mark.parametrize("budget", [0.0, 0.2, 1.0, None])
def test_every_step_is_as_uncached_passes_say_and_within_the_budget(desk: Desk, budget: float | None):
    steering = replace(STRONG, budget=budget)
    session = desk.session(PROMPTS[0], desk.mix(formality=1), WARM, steering=steering)
    steps = follow(desk, session)
    assert steps and all(abs(logprob) < 2e-3 and abs(nats) < 2e-3 for logprob, nats, _ in steps)
    assert all(nats <= (20 if budget is None else budget) + 1e-6 for _, _, nats in steps)
    assert session.stats.most_nats >= session.stats.nats > 0 or budget == 0


def test_one_budget_over_everything_that_steers(desk: Desk):
    steering = replace(STRONG, budget=0.3, whole=True)
    session = desk.session(PROMPTS[0], desk.mix(formality=2, humor=1), WARM, steering=steering)
    steps = follow(desk, session)
    assert steps and all(abs(logprob) < 2e-3 and abs(nats) < 2e-3 for logprob, nats, _ in steps)
    assert all(nats <= 0.3 + 1e-6 for _, _, nats in steps) and max(nats for _, _, nats in steps) > 0.29
    alone = desk.session(PROMPTS[0], desk.mix(formality=2), WARM, steering=Steering(budget=0.1, whole=True))
    assert all(step.nats <= 0.1 + 1e-6 for step in alone) and alone.stats.most_nats > 0.09


def test_judges_and_rewards_of_a_formula_share_the_budget(desk: Desk):
    formula = "sliders + 3*reward(humor)"
    free = desk.logprobs(PROMPTS[0], None, formula)
    plain = desk.logprobs(PROMPTS[0])
    bounded = desk.logprobs(PROMPTS[0], None, formula, replace(STRONG, budget=0.25))
    assert float(divergence(plain, free.double() - plain)) > 0.3
    assert float(divergence(plain, bounded.double() - plain)) == pytest.approx(0.25, abs=1e-3)
    session = desk.session(PROMPTS[0], None, WARM, formula=formula, steering=Steering(budget=0.25))
    assert all(step.nats <= 0.25 + 1e-6 for step in session) and session.stats.most_nats > 0.2


def test_a_slider_acts_on_the_next_token_of_its_own_text(desk: Desk):
    session, other = (desk.session(PROMPTS[i], None, WARM) for i in (0, 1))
    alone = trace(desk.session(PROMPTS[1], None, WARM))
    found = []
    for step, beside in desk.lockstep(session, other):
        assert step and beside
        found.append((beside.token_id, beside.logprob.hex(), beside.mix_key, beside.exact))
        assert step.exact and bool(step.levels) == bool(session.steering.heads)
        assert (step.nats > 0) == bool(session.steering.heads)
        session.steering = (STRONG, Steering(), Steering(levels={"humor": 1.0}))[step.index % 3]
    assert same(desk, found, alone)


@pytest.mark.parametrize("draft", ["ngram", "base"])
def test_guesses_change_no_text_with_reward_sliders(desk: Desk, draft: str):
    plain = trace(desk.session(PROMPTS[2], desk.mix(humor=1), params(24), steering=STRONG))
    guessed = trace(desk.session(PROMPTS[2], desk.mix(humor=1), params(24), draft=draft, steering=STRONG))  # type: ignore[arg-type]
    assert [note[0] for note in guessed] == [note[0] for note in plain]


def test_fused_heads_change_all_tokens_and_leave_no_trace(desk: Desk):
    renew(desk, most_rows=1)
    plain = trace(desk.session(PROMPTS[0], None, WARM))
    steering = Steering({"humor": 0.5, "toxicity": -0.4}, fused=True)
    model, heads = desk.model, [reward.head for reward in desk.catalog.controller.heads.values()]
    _, state = model.read(model.encode(PROMPTS[0]), (0.0,) * len(desk.anchors))
    matrix = fused_matrix(heads, desk.catalog.controller.prepare(steering).strengths or ())
    expected = torch.log_softmax(model.embedding.float() @ (matrix @ state), -1)
    assert torch.allclose(desk.logprobs(PROMPTS[0], steering=steering), expected, atol=1e-3)
    session = desk.session(PROMPTS[0], None, WARM, steering=steering)
    for step in session:
        if not step.index:
            assert step.logprob == pytest.approx(float(expected[step.token_id]), abs=1e-3)
    assert trace(session) != plain and same(desk, trace(desk.session(PROMPTS[0], None, WARM)), plain)
    half = desk.session(PROMPTS[0], None, WARM, steering=steering)
    next(stream := iter(half))
    half.steering = Steering()
    assert len(list(stream)) == 11 and desk.model.backend.head_gate[1] is None


def test_what_cannot_steer_says_so_and_the_text_goes_on(desk: Desk):
    with pytest.raises(UnknownName, match="humour"):
        desk.session("Hi", steering=Steering({"humour": 1.0}))
    session = desk.session("Hi", None, params(4))
    with pytest.raises(InvalidValue, match="base's own row"):
        session.steering = Steering({"humor": 1.0}, whole=True)
    with pytest.raises(UnknownName):
        session.steering = Steering(levels={"nobody": 1.0})
    assert session.steering.heads == () and len(list(session)) == 4
    desk.session("Hi", None, params(4), formula="base + sliders").steering = replace(STRONG, whole=True)


def test_bans_hold_where_rewards_steer(desk: Desk):
    best = desk.tokenizer.decode([int(desk.logprobs("Hi", steering=STRONG).argmax())])
    formula = f"sliders + ban({best!r})" if str(best).isalpha() else 'sliders + ban("e")'
    session = desk.session("Hi", None, params(20), formula=formula, steering=STRONG)
    assert list(session) and session.text


def test_a_reward_model_steers_as_a_head_does(desk: Desk, tmp_path: Path):
    """In sliders, levels and formulas; cached and uncached passes agree; and `cut` leaves only the tokens in reach."""
    name = f"rad{len(desk.rewards)}"
    desk.add_reward(name, make_teacher(Path(str(desk.base_model.name_or_path)), tmp_path / "rad"))
    assert desk.rewards[-1] == name
    steering = Steering({name: 1.5, "humor": 0.5}, budget=0.5, reach=20, cut=True)
    session, other = (desk.session(PROMPTS[i], desk.mix(humor=0.5), WARM, steering=steering) for i in (0, 1))
    whole = [follow(desk, session), follow(desk, other)]
    assert all(steps and all(abs(gap) < 2e-3 for gap, *_ in steps) for steps in whole)
    again = desk.session(PROMPTS[0], desk.mix(humor=0.5), WARM, steering=steering)
    assert [note[0] for note in trace(again)] == session.token_ids
    aimed = [step.levels for step in desk.session("Hi", None, params(4), steering=Steering(levels={name: 1.0}))]
    assert all(0 <= levels[name] <= 1 for levels in aimed)
    by_formula = desk.logprobs("Hi", None, f"base + 2*reward({name})")
    by_slider = desk.logprobs("Hi", None, None, Steering({name: 2.0}, budget=None))
    assert torch.allclose(by_formula, by_slider, atol=1e-4)
    with pytest.raises(Unsupported, match="cannot be fused"):
        desk.session("Hi", steering=Steering({name: 1.0}, fused=True))
    with pytest.raises(InvalidValue, match="taken"):
        desk.add_reward("humor", tmp_path)


def test_a_cut_leaves_something_where_the_text_may_not_end(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk.model, "eos_ids", frozenset(range(130)))
    for formula in (None, "sliders + reward(humor)"):
        steering = Steering({"humor": 1.0}, reach=1, cut=True)
        options = params(12, min_new_tokens=12)
        session = desk.session(PROMPTS[0], None, options, formula=formula, steering=steering)
        assert len(list(session)) == 12 and min(session.token_ids) >= 130
