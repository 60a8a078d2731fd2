"""Reward heads in formulas: they read the reward branch and act on likely tokens, however the text is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixer import Desk
from mixer.adapters.fingerprint import base_fingerprint
from mixer.errors import FormulaError, Unsupported
from mixer.rewards.files import save_reward
from mixer.rewards.heads import HeadCalibration, Reward, RewardHead, Trunk, likely
from tests.decoding.conftest import PROMPTS, params, trace
from tests.factory import make_base, make_desk_folders

HIDDEN = 32


def make_reward(folder: Path, attribute: str, fingerprint: str, trunk: Trunk | None = None, size: int = HIDDEN) -> None:
    generator = torch.Generator().manual_seed(5)
    down, up, weight = (torch.randn(shape, generator=generator) for shape in ((3, size), (size, 3), (size,)))
    calibration = HeadCalibration(0.7, 2.0, {0.1: 0.5, 0.5: 1.5}, {0.1: 0.4, 0.5: 1.2})
    reward = Reward(attribute, RewardHead(down, up, weight, 0.1, trunk), calibration)
    save_reward(reward, folder / attribute / "reward", fingerprint, {})


@pytest.fixture(scope="module", params=["native", "torch"])
def loaded(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Desk:
    root = make_desk_folders(tmp_path_factory.mktemp("rewards"))
    plain = Desk.load(root / "base", root / "anchors", device="cpu")
    for attribute in ("humor", "toxicity"):  # the second one has a head, but no anchors
        make_reward(root / "anchors", attribute, base_fingerprint(plain.base_model))
    return Desk.load(root / "base", root / "anchors", device="cpu", native=request.param == "native", auto_fold=False)


def test_a_reward_adds_calibrated_advantages_to_likely_tokens(desk: Desk):
    plain, rewarded = desk.logprobs(PROMPTS[0]), desk.logprobs(PROMPTS[0], None, "base + 2*reward(humor)")
    model, reward = desk.model, desk.catalog.controller.heads["humor"]
    _, state = model.read(model.encode(PROMPTS[0]), (0.0,) * len(desk.anchors))
    some = likely(plain).nonzero()[:, 0]
    rewards = reward.head.rewards(state, model.embedding)
    mean = (rewards[some] * plain[some].exp()).sum() / plain[some].exp().sum()
    expected = plain.clone()
    expected[some] += 2 * 1.5 * ((rewards[some] - mean) / 0.7).clamp(-2, 2)
    assert 3 <= len(some) <= 100
    assert torch.allclose(rewarded, torch.log_softmax(expected, -1), atol=1e-4)


def test_strength_0_is_no_head_bit_for_bit_and_poles_mirror_each_other(desk: Desk):
    assert torch.equal(
        desk.logprobs("Hi", None, "base + 0*reward(humor)"), desk.logprobs("Hi", None, "base + 0*uniform")
    )
    toward = desk.logprobs("Hi", None, "base + reward(nontoxic)")
    away = desk.logprobs("Hi", None, "base - reward(toxic)")
    assert torch.equal(toward, away) and not torch.equal(toward, desk.logprobs("Hi"))


def test_every_step_is_drawn_as_uncached_passes_say(desk: Desk):
    """With two heads, a mix that moves, a further term, and other texts in the batch."""
    formula = "sliders + 0.2*[humor] + 1.5*reward(humor) - reward(toxicity)"
    session = desk.session(PROMPTS[0], desk.mix(formality=1), params(10), "refill", formula=formula)
    other = desk.session(PROMPTS[1], desk.mix(humor=1), params(10), formula="base + reward(humor)")
    prompt = PROMPTS[0]
    for step, _ in desk.lockstep(session, other):
        assert step
        text = prompt + desk.tokenizer.decode(session.token_ids[:-1], skip_special_tokens=True)  # type: ignore[operator]
        if desk.tokenizer(text).input_ids == session.prompt_ids + session.token_ids[:-1]:
            expected = desk.logprobs(text, session.mix, formula)[step.token_id]
            assert step.logprob == pytest.approx(float(expected), abs=1e-3)
        session.mix = desk.mix(formality=1 - step.index / 5)


@pytest.mark.parametrize("draft", ["ngram", "base"])
def test_guesses_change_no_text_with_rewards(desk: Desk, draft: str):
    formula = "sliders + 2*reward(humor)"
    plain = trace(desk.session(PROMPTS[2], desk.mix(humor=1), params(24), formula=formula))
    guessed = trace(desk.session(PROMPTS[2], desk.mix(humor=1), params(24), formula=formula, draft=draft))  # type: ignore[arg-type]
    assert [note[0] for note in guessed] == [note[0] for note in plain]


def test_what_cannot_be_used_is_left_out_with_the_reason(desk: Desk, tmp_path: Path):
    root = make_desk_folders(tmp_path, attributes=("humor",))
    own = base_fingerprint(desk.base_model)
    make_reward(root / "anchors", "humor", "0" * 16)
    make_reward(root / "anchors", "wide", own, size=16)
    make_reward(root / "anchors", "deep", own, Trunk(torch.ones(4)))
    with pytest.raises(Unsupported, match="all layers"):
        Desk.load(root / "base", root / "anchors", device="cpu")
    loose = Desk.load(root / "base", root / "anchors", device="cpu", strict=False)
    assert loose.vocabulary.rewards == () and len(loose.problems) == 3
    assert any("another size" in problem for problem in loose.problems)
    assert any("another base" in problem for problem in loose.problems)
    with pytest.raises(FormulaError, match="no reward head called 'humor'"):
        loose.formula("base + reward(humor)")


def test_a_reward_needs_a_term_of_the_resident_base(desk: Desk, tmp_path: Path):
    desk.add_model(f"other{desk.model.order}", make_base(tmp_path, seed=3))
    name = desk.vocabulary.models[0]
    with pytest.raises(FormulaError, match="no term of it"):
        desk.formula(f"[base, model={name}] + reward(humor)")
    assert desk.formula(f"[base, model={name}] + reward(humor) + 0.1*base").bound.reward_branch
