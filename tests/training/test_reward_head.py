"""Laws of training reward heads, on a tiny random model: they learn what a head can express, strengths are right."""

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.adapters.anchor_set import load_anchors
from mixer.errors import BadArtifact, InvalidValue
from mixer.rewards.files import load_reward
from mixer.rewards.heads import RewardHead, advantage
from mixer.rewards.rad import REPORT, load_rad
from mixer.rewards.reference import divergence
from mixer.training.frozen_base import load_base
from mixer.training.head_measures import calibrate, calibrate_scores, fidelity, strength
from mixer.training.head_training import HeadTraining, calibrate_teacher, train_head
from mixer.training.labels import LabelledText
from mixer.training.prefix_samples import CANDIDATES, LIKELY, MixedBase, PrefixSamples, collect
from mixer.training.reward_head import HeadConfig, fit
from mixer.training.reward_model import TeacherConfig, load_teacher, new_teacher, train_teacher
from mixer.values.mix import Mix
from tests.factory import make_base

D, V, S = 16, 120, 3
CONFIG = HeadConfig(rank=2, epochs=30, rows=128, texts=40, a_text=4, lr=1e-2, decay=0.0)
DOWN, UP, WEIGHT = (torch.randn(n, D, generator=torch.Generator().manual_seed(n)) / 4 for n in (2, 3, 1))
HEAD = RewardHead(DOWN, UP[:2].T, WEIGHT[0])
EMBEDDING = torch.randn(V, D, generator=torch.Generator().manual_seed(1))


def samples(seed: int, count: int, head: RewardHead = HEAD) -> PrefixSamples:
    """Random samples that a head of rank 2 explains entirely."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, S, D, generator=generator).bfloat16()
    candidates = torch.randint(V, (count, CANDIDATES), generator=generator)
    rewards = head.rewards(states[:, -1].float(), EMBEDDING[candidates])
    logprobs = torch.log_softmax(states[:, -1].float() @ EMBEDDING.T, -1).gather(1, candidates)
    labels = (rewards[:, -1] > 0).float()
    return PrefixSamples(states, candidates, logprobs, labels, torch.ones(count), rewards)


def test_distillation_finds_the_head_that_made_the_rewards():
    own = fit(samples(1, 1500), samples(2, 200), EMBEDDING, CONFIG)
    figures = fidelity(own, samples(3, 300), EMBEDDING)
    assert figures["r2"] > 0.97 and figures["centred_r2"] > 0.97 and figures["argmax_agreement"] > 0.8
    rough = fidelity(replace(own, up=0 * own.up), samples(3, 300), EMBEDDING)
    assert rough["centred_r2"] == pytest.approx(0, abs=1e-3) and rough["r2"] < 0.9


@pytest.mark.parametrize("reads", ["layers", "trunk"])
def test_heads_may_read_other_layers(reads):
    own = fit(samples(1, 600), samples(2, 100), EMBEDDING, replace(CONFIG, reads=reads, inner=8))
    assert own.trunk is not None and (own.trunk.inner is None) == (reads == "layers")
    assert fidelity(own, samples(3, 300), EMBEDDING)["centred_r2"] > 0.6


def test_responses_teach_the_direction():
    config = replace(CONFIG, source="responses", epochs=40)
    own = fit(samples(1, 3000), samples(2, 300), EMBEDDING, config)
    assert fidelity(own, samples(3, 300), EMBEDDING)["centred_correlation"] > 0.5


def test_a_regularizer_holds_a_head_back():
    free, held = (fit(samples(1, 600), samples(2, 100), EMBEDDING, replace(CONFIG, regularizer=r)) for r in (0.0, 30.0))
    assert held.shift(torch.ones(D)).norm() < free.shift(torch.ones(D)).norm()


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.01, 1))
def test_a_strength_spends_its_budget(seed: int, budget: float):
    generator = torch.Generator().manual_seed(seed)
    logprobs = torch.log_softmax(torch.randn(5, 40, generator=generator), -1)
    bias = torch.randn(5, 40, generator=generator)
    beta = strength(logprobs, bias, budget, both=False)
    assert float(divergence(logprobs, bias, beta).mean()) == pytest.approx(budget, rel=1e-3)


def test_calibration_is_the_same_for_a_head_of_any_scale():
    own = calibrate(HEAD, samples(5, 200), EMBEDDING)
    double = calibrate(replace(HEAD, up=2 * HEAD.up, bias=7.0), samples(5, 200), EMBEDDING)
    assert double.sigma == pytest.approx(2 * own.sigma, rel=1e-3)
    assert double.betas == pytest.approx(own.betas, rel=1e-2)
    assert double.fused_betas == pytest.approx(own.fused_betas, rel=1e-2)
    assert own.betas[0.1] < own.betas[0.5]


def test_a_reward_model_is_calibrated_clamped_and_on_the_likeliest_tokens_alone():
    drawn = samples(5, 300)
    rewards, logprobs = 3 * drawn.rewards[:, :LIKELY], drawn.logprobs[:, :LIKELY]
    own = calibrate_scores(rewards, logprobs)
    assert own == calibrate_scores(rewards.clamp(0, 1), logprobs + 3.0)
    some = torch.log_softmax(logprobs, -1)
    push = advantage(rewards.clamp(0, 1), some.exp(), own.sigma, own.clip)
    assert torch.equal(push, advantage(rewards.clamp(0, 1), some.exp(), own.sigma))
    for budget, beta in own.betas.items():
        moved = sum(divergence(some, sign * push, beta).mean() for sign in (1, -1)) / 2
        assert float(moved) == pytest.approx(budget, rel=0.01)


def test_states_are_the_base_s_own_where_all_sliders_rest(tiny: Path):
    lm, _ = load_base(tiny / "base", "cpu")
    base = MixedBase(lm, load_anchors(tiny / "anchors", lm, str(tiny / "base")), seed=3)
    mixes = [base.random_mix() for _ in range(200)]
    assert 60 < sum(mix == Mix() for mix in mixes) < 140
    ids = torch.randint(1, 200, (6, 9))
    plain = torch.stack(lm.base_model(ids, output_hidden_states=True).hidden_states, dim=2)
    mixed = base.states(ids, [Mix()] * 3 + [Mix(raw={"humor.positive": 1.0})] * 3)
    assert torch.allclose(mixed[:3], plain[:3], atol=1e-5)
    assert not torch.allclose(mixed[3:], plain[3:], atol=1e-2)


def test_samples_hold_what_the_reward_model_says(tiny: Path, tmp_path: Path):
    lm, _ = load_base(tiny / "base", "cpu")
    teacher, _, _ = new_teacher(tiny / "base")
    teacher.backbone.float()
    teacher.weight.data.normal_()
    texts = [LabelledText(tuple(range(1, n)), float(n % 2)) for n in (3, 9, 30, 17)]
    found = collect(MixedBase(lm, load_anchors(tiny / "anchors", lm, str(tiny / "base")), 0), texts, 3, teacher)
    assert found.states.shape == (9, 3, 32) and found.rewards.shape == found.candidates.shape == (9, CANDIDATES)
    assert (found.logprobs[:, : LIKELY - 1] >= found.logprobs[:, 1:LIKELY]).all()
    for candidates, rewards in zip(found.candidates, found.rewards, strict=True):
        prefix = list(range(1, int(candidates[-1])))  # these texts count upward
        expected = [teacher(torch.tensor([[*prefix, int(token)]]))[0, -1] for token in candidates]
        assert torch.allclose(rewards, torch.stack(expected), atol=1e-3)
    found.save(tmp_path / "samples.safetensors")
    assert torch.equal(PrefixSamples.load(tmp_path / "samples.safetensors").rewards, found.rewards)


def test_final_states_alone_are_the_same_states(tiny: Path):
    lm, _ = load_base(tiny / "base", "cpu")
    texts = [LabelledText(tuple(range(1, n)), 1.0) for n in (9, 30, 17)]
    anchors = load_anchors(tiny / "anchors", lm, str(tiny / "base"))
    whole, final = (collect(MixedBase(lm, anchors, 0), texts, 3, None, final_only=only) for only in (False, True))
    assert final.states.shape[1] == 1 and torch.equal(final.states[:, 0], whole.states[:, -1])
    assert torch.equal(final.candidates, whole.candidates)


def test_caches_are_of_one_base_with_one_set_of_anchors(tiny: Path, tmp_path: Path):
    base = make_base(tmp_path / "base", seed=3)
    config = replace(CONFIG, source="responses")
    cases = [(tiny / "base", tiny / "anchors"), (tiny / "base", None), (base, None)]
    for number, (own, anchors) in enumerate(cases, start=1):
        run = HeadTraining(own, anchors, None, tmp_path / "work", config, final_only=True)
        run.samples("humor", "test", "responses")
        assert len(list((tmp_path / "work" / "humor").iterdir())) == number


def test_a_head_is_trained_from_end_to_end(tiny: Path, tmp_path: Path):
    data = tmp_path / "pairs"
    data.mkdir()
    with lzma.open(data / "humor.jsonl.xz", "wt") as file:
        for i in range(120):
            opening = f"T {i} says"
            pair = {"opening": opening, "positive": opening + " aaab" * 3, "negative": opening + " zzzy" * 3}
            file.write(json.dumps(pair) + "\n")
    run = HeadTraining(
        tiny / "base", tiny / "anchors", tmp_path, tmp_path / "work", replace(CONFIG, texts=24, epochs=3)
    )
    with pytest.raises(BadArtifact, match="--kind rad"):
        train_head("humor", run, tmp_path / "out")
    folder = tmp_path / "work" / "humor"
    train_teacher(tiny / "base", "humor", tmp_path, folder, TeacherConfig(minutes=0.02))
    with pytest.raises(BadArtifact, match="not calibrated"):
        load_rad(run.lm, folder)
    report = calibrate_teacher("humor", run)
    rad = load_rad(run.lm, folder)
    assert rad.calibration.betas.keys() == {0.1, 0.5} and rad.calibration.sigma > 0
    assert calibrate_teacher("humor", run) == report == json.loads((folder / REPORT).read_text())
    text = run.texts("humor", "test")[0].ids
    model = load_teacher(tiny / "base", folder)
    expected = model.after(torch.tensor([text]), torch.tensor([[len(text) - 1]]), torch.arange(20)[None, None])[0, 0]
    assert torch.allclose(rad.rewards(text, range(20)), expected.clamp(0, 1), atol=1e-4)
    report = train_head("humor", run, tmp_path / "out")
    found = load_reward(tmp_path / "out" / "humor" / "reward", report["base_fingerprint"])
    assert found.attribute == "humor" and found.head.rank == 2 and report["held_out"]
    assert not any(str(part).startswith("/") for part in (report["base"], report["kind"]))


@pytest.mark.parametrize("bad", [{"rank": 0}, {"lr": 0.0}, {"texts": 3}, {"regularizer": -1.0}])
def test_settings_out_of_range_are_refused(bad: dict):
    with pytest.raises(InvalidValue):
        HeadConfig(**bad)
