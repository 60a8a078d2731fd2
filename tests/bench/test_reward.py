"""The benchmark of reward heads: its gates catch what is wrong, and its figures are of the rounds. Never times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import reward
from bench.harness.run_rewards import RewardsRunner
from mixer import Desk
from mixer.adapters.fingerprint import base_fingerprint
from mixer.cli import main
from mixer.rewards.files import save_reward
from mixer.rewards.heads import HeadCalibration, Reward, RewardHead
from mixer.rewards.rad import load_rad
from tests.factory import make_desk_folders
from tests.rewards.test_rad import make_teacher

PROMPT, HEADS = "Dear neighbor, it is 7 o'clock", ["humor", "toxicity"]
METHODS = {method.label: method for method in reward.methods_of(HEADS, reward.SHOWN)}
ASKED = {"prompt": PROMPT, "tokens": 6, "seed": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_desk_folders(tmp_path_factory.mktemp("steered"))
    plain = Desk.load(root / "base", root / "anchors", device="cpu")
    generator = torch.Generator().manual_seed(5)
    for attribute in HEADS:
        down, up, weight = (torch.randn(shape, generator=generator) for shape in ((3, 32), (32, 3), (32,)))
        calibration = HeadCalibration(0.7, 2.0, {0.1: 0.5, 0.5: 1.5}, {0.1: 0.4, 0.5: 1.2})
        own = Reward(attribute, RewardHead(down, up, weight, 0.1), calibration)
        save_reward(own, root / "anchors" / attribute / "reward", base_fingerprint(plain.base_model), {})
    return root


@pytest.fixture(scope="module")
def host(folders: Path) -> RewardsRunner:
    return RewardsRunner(str(folders / "base"), str(folders / "anchors"), "float32", torch.get_num_threads(), None)


def steerings() -> list[reward.RewardMethod]:
    return [method for method in METHODS.values() if "RAD" not in method.label and method.steering]


@pytest.mark.parametrize("method", steerings(), ids=lambda method: method.label)
def test_every_way_is_what_plain_torch_says(host: RewardsRunner, method: reward.RewardMethod):
    seen = host.by_heads(**ASKED, steering=method.steering, separate=method.separate)
    assert seen["off"] <= reward.AGREES
    if method.steering["budget" if "budget" in method.steering else "positions"] == reward.BUDGET:
        assert 0.9 * reward.BUDGET < seen["nats"] <= reward.BUDGET


@pytest.mark.parametrize("label", [reward.SLACK, reward.FUSED])
def test_the_gate_catches_a_head_that_is_slightly_too_strong(
    host: RewardsRunner, label: str, monkeypatch: pytest.MonkeyPatch
):
    expected = host._expected

    def stronger(ids, last, steering, *rest):
        first = next(iter(steering.positions))
        return expected(ids, last, steering.with_position(first, steering.positions[first] * 1.01), *rest)

    monkeypatch.setattr(host, "_expected", stronger)
    assert host.by_heads(**ASKED, steering=METHODS[label].steering)["off"] > reward.AGREES


def test_at_rest_nothing_differs_and_steering_shows(host: RewardsRunner):
    for method in steerings():
        rest = method.steering | {"positions": dict.fromkeys(HEADS, 0.0), "whole": False}
        assert host.at_rest(**ASKED, steering=rest) == 0
    assert host.at_rest(**ASKED, steering=METHODS[reward.FUSED].steering) > 0


def test_one_pass_scores_as_a_pass_a_token_and_the_rewards_tell_tokens_apart(host: RewardsRunner):
    steering = METHODS[reward.TREE].steering | {"positions": {"compared": 1.0}}
    seen = host.by_model(**ASKED, steering=steering)
    assert seen["off"] <= reward.AGREES and seen["inside"] > 0.5
    rewards = host.controller.models["tree"].rewards([5, 6, 7], range(20))
    assert len(set(rewards.tolist())) > 10


def test_texts_have_a_step_for_each_token_but_the_first(host: RewardsRunner):
    for method in METHODS.values():
        text = host.write([PROMPT, "Once"], 4, 0, method.steering, method.separate)
        assert len(text["steps"]) == 3 and min(text["steps"]) > 0
        assert (text["nats"] > 0) == (method.label not in (reward.NONE, reward.FUSED, reward.APART))


def test_a_trained_reward_model_takes_the_place_of_the_random_one(folders: Path, tmp_path: Path, host: RewardsRunner):
    teacher = make_teacher(folders / "base", tmp_path / "rad")
    own = RewardsRunner(str(folders / "base"), str(folders / "anchors"), "float32", 1, str(teacher))
    expected = load_rad(own.desk.base_model, teacher).rewards([5, 6, 7], [1, 2])
    assert torch.allclose(own.controller.models["sequential"].rewards([5, 6, 7], [1, 2]), expected, atol=1e-5)


@given(st.lists(st.floats(0.001, 1), min_size=3, max_size=9), st.floats(0.5, 9))
def test_ratios_are_of_each_round_s_steps_as_far_as_both_go(seconds: list[float], times: float):
    short, long = [[own] * 2 for own in seconds], [[own * times] * 2 + [5.0] for own in seconds]
    found = reward.spread(long, short)
    assert found == pytest.approx({"median": times, "low": times, "high": times})


def test_targets_are_about_the_medians():
    steps = {label: [[0.001]] for label in METHODS}
    steps |= {reward.FUSED: [[0.00102]], reward.TREE: [[0.0019]], reward.SEQUENTIAL: [[0.011]]}
    part = reward.compared(steps, {label: [0.0] for label in METHODS}, 1) | {"batch": 1}
    assert [line.rpartition(" ")[2] for line in reward.targets(part)] == ["yes", "no", "yes"]
    assert len(reward.targets(part | {"batch": 16})) == 2


def test_a_base_without_heads_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--quick", "--threads", "1", "--base", str(tiny / "base"), "--anchors", str(tiny / "anchors")]
    assert main(["bench", "reward", *words]) == 2
    assert "no reward heads" in capsys.readouterr().err


@pytest.mark.slow
def test_a_quick_run_gates_and_reports(folders: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--quick", "--threads", "1", "--base", str(folders / "base"), "--anchors", str(folders / "anchors")]
    assert main(["bench", "reward", *words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    text = reward.table(report)
    assert all(gate["right"] for gate in report["gates"]) and "quick run" in text and "random" in text
    assert [part["batch"] for part in report["sections"]] == [1, 16]
    assert all({row["method"] for row in part["rows"]} == set(METHODS) for part in report["sections"])
