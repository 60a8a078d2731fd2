"""Reward heads on disk: a saved head loads again, and an error says why a head cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixer.adapters.fingerprint import base_fingerprint
from mixer.errors import BadArtifact
from mixer.model.base import load_base
from mixer.rewards.files import CONFIG, WEIGHTS, find_rewards, load_reward, save_reward
from mixer.rewards.heads import HeadCalibration, Reward, Trunk
from tests.rewards.test_heads import S, head, numbers

SHIPPED = Path(__file__).resolve().parents[2]
BASE = "0123456789abcdef"
TRUNK = Trunk(numbers(1, S), numbers(2, 8, 24), numbers(3, 24, 8))
CALIBRATION = HeadCalibration(0.05, 4.0, {0.1: 0.7, 0.5: 1.5}, {0.1: 0.6, 0.5: 1.25})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_reward(
        Reward("humor", head(5, trunk=TRUNK), CALIBRATION), tmp_path / "humor" / "reward", BASE, {"kind": "arm"}
    )
    return tmp_path / "humor" / "reward"


@pytest.mark.parametrize("trunk", [None, TRUNK, replace(TRUNK, inner=None, outer=None)])
def test_a_head_comes_back(tmp_path: Path, trunk: Trunk | None):
    own = head(5, trunk=trunk)
    save_reward(Reward("humor", own, CALIBRATION), tmp_path, BASE, {})
    found = load_reward(tmp_path, BASE)
    assert (found.attribute, found.calibration) == ("humor", CALIBRATION)
    states = numbers(9, 6, S, 24)
    expected, got = (h.rewards(h.state(states), numbers(8, 50, 24)) for h in (own, found.head))
    assert torch.allclose(got, expected, rtol=1e-2, atol=2e-2)
    assert found.head.bias == own.bias and (found.head.trunk is None) == (trunk is None)
    assert found.fused_strength(-0.5, 0.1) == pytest.approx(-0.5 * 0.6 / 0.05)


def test_heads_are_found_by_attribute(folder: Path):
    assert find_rewards(folder.parents[1]) == {"humor": folder}
    assert find_rewards(folder) == {}


def change(folder: Path, **tensors: torch.Tensor) -> None:
    save_file({**load_file(folder / WEIGHTS), **tensors}, folder / WEIGHTS)


def test_what_cannot_be_used_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(BadArtifact, match="another base"):
        load_reward(folder, "f" * 16)
    with pytest.raises(BadArtifact, match="missing"):
        load_reward(tmp_path / "nothing")
    for wrong in ({"down": torch.zeros(3, 23)}, {"outer": torch.zeros(24, 7)}, {"bias": torch.zeros(2)}):
        former = (folder / WEIGHTS).read_bytes()
        change(folder, **wrong)
        with pytest.raises(BadArtifact, match="does not fit"):
            load_reward(folder)
        (folder / WEIGHTS).write_bytes(former)
    change(folder, up=torch.full((24, 3), torch.nan))
    with pytest.raises(BadArtifact, match="not finite"):
        load_reward(folder)
    (folder / WEIGHTS).write_bytes(b"broken")
    with pytest.raises(BadArtifact, match="corrupt"):
        load_reward(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "format 2"),
        ({"calibration": {"sigma": "wide"}}, "describe"),
        ({"calibration": None}, "describe"),
    ],
)
def test_a_damaged_description_is_refused(folder: Path, changes: dict, reason: str):
    record = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(record | changes))
    with pytest.raises(BadArtifact, match=reason):
        load_reward(folder)
    (folder / CONFIG).write_text("[]")
    with pytest.raises(BadArtifact, match="no JSON object"):
        load_reward(folder)


def test_the_shipped_heads_fit_the_embedded_base_and_are_small():
    lm, _ = load_base(str(SHIPPED / "assets" / "base"), torch.device("cpu"), torch.float32)
    found = find_rewards(SHIPPED / "anchors" / "tiny")
    rewards = [load_reward(folder, base_fingerprint(lm)) for folder in found.values()]
    assert [reward.attribute for reward in rewards] == list(found)
    assert sum(file.stat().st_size for folder in found.values() for file in folder.iterdir()) < 3 * 2**20
    assert all(reward.head.trunk is None and reward.calibration.sigma > 0 for reward in rewards)
    assert {"sentiment", "toxicity"} <= found.keys()
