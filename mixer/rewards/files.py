"""Reward heads on disk, beside the anchors of their attribute.

    anchors/ATTRIBUTE/reward/reward.json         attribute, rank, fingerprint of the base, calibration
    anchors/ATTRIBUTE/reward/head.safetensors    down, up, weight, bias; for a trunk also mix, inner and outer

Weights are read from safetensors only. This module knows nothing of training or decoding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixer.adapters.fingerprint import is_same_base
from mixer.errors import BadArtifact, MixerError, Unsupported
from mixer.rewards.heads import HeadCalibration, Reward, RewardHead, Trunk

FOLDER, CONFIG, WEIGHTS = "reward", "reward.json", "head.safetensors"
FORMAT = 1
HINT = "Train it again with `python -m mixer train reward ATTRIBUTE`."


def save_reward(reward: Reward, folder: Path, fingerprint: str, facts: Mapping[str, Any]) -> None:
    """Write a head with its calibration. Files of an older head are replaced.

    Args:
        fingerprint: of the base; see `mixer.adapters.fingerprint.base_fingerprint`.
        facts: further entries of `reward.json`, such as how the head was trained, and held-out figures.
    """
    head, calibration = reward.head, reward.calibration
    tensors = {"down": head.down, "up": head.up, "weight": head.weight, "bias": torch.tensor([head.bias])}
    if head.trunk is not None:
        parts = {"mix": head.trunk.mix, "inner": head.trunk.inner, "outer": head.trunk.outer}
        tensors |= {name: part for name, part in parts.items() if part is not None}
    record = {
        "format": FORMAT,
        "attribute": reward.attribute,
        "base_fingerprint": fingerprint,
        "rank": head.rank,
        "hidden_size": head.weight.shape[0],
        "reads": "final" if head.trunk is None else "layers",
        "calibration": calibration_record(calibration),
    }
    folder.mkdir(parents=True, exist_ok=True)
    # The baseline and the mix are small and stay float32. For the matrices float16 is precise enough.
    wide = ("weight", "bias", "mix")
    stored = {n: t.float().contiguous() if n in wide else t.to(torch.float16).contiguous() for n, t in tensors.items()}
    save_file(stored, folder / WEIGHTS, {"format": "pt", "base_fingerprint": fingerprint})
    (folder / CONFIG).write_text(json.dumps(record | dict(facts), indent=2) + "\n", encoding="utf-8")


def load_reward(folder: Path, fingerprint: str | None = None) -> Reward:
    """Read a head, in float32, and its calibration.

    Args:
        fingerprint: of the loaded base; None accepts a head for any base.

    Raises:
        BadArtifact: the files are missing, damaged, or of a later format, or the head was trained for another base.
    """
    record, tensors = _read(folder)
    if record.get("format") != FORMAT:
        raise BadArtifact(
            f"{folder / CONFIG} has format {record.get('format')!r}; this program reads {FORMAT}.",
            "Update the program, or train the head again.",
        )
    if fingerprint is not None and not is_same_base(str(record.get("base_fingerprint")), fingerprint):
        raise BadArtifact(f"The reward head in {folder} was trained for another base model.", HINT)
    try:
        calibration = read_calibration(record["calibration"])
        reward = Reward(str(record["attribute"]), _head(folder, tensors), calibration)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, MixerError):
            raise
        raise BadArtifact(f"{folder / CONFIG} does not describe a reward head: {error!r}.", HINT) from error
    return reward


def calibration_record(calibration: HeadCalibration) -> dict[str, Any]:
    """A calibration as a JSON object."""
    return {
        "sigma": calibration.sigma,
        "clip": calibration.clip,
        "betas": {f"{budget:g}": beta for budget, beta in calibration.betas.items()},
        "fused_betas": {f"{budget:g}": beta for budget, beta in calibration.fused_betas.items()},
    }


def read_calibration(record: Mapping[str, Any]) -> HeadCalibration:
    """The calibration in a JSON object.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the object does not describe a calibration.
    """
    betas = {name: {float(b): float(v) for b, v in record[name].items()} for name in ("betas", "fused_betas")}
    return HeadCalibration(float(record["sigma"]), float(record["clip"]), **betas)


def find_rewards(anchors: Path) -> dict[str, Path]:
    """The folders of all reward heads under an anchors folder, by attribute, sorted."""
    return {path.parent.parent.name: path.parent for path in sorted(anchors.glob(f"*/{FOLDER}/{CONFIG}"))}


def load_rewards(
    anchors: Path, hidden_size: int, fingerprint: str | None
) -> tuple[dict[str, Reward], list[MixerError]]:
    """All reward heads under an anchors folder that fit a base, by attribute, and the errors of all others.

    Args:
        hidden_size: of the base.
        fingerprint: see `load_reward`.
    """
    found, problems = dict[str, Reward](), list[MixerError]()
    for attribute, folder in find_rewards(anchors).items():
        try:
            reward = load_reward(folder, fingerprint)
            if reward.head.weight.shape[0] != hidden_size:
                raise BadArtifact(f"The reward head in {folder} is for states of another size.", HINT)
            if reward.head.trunk is not None:
                hint = "Train it to read the final state, which is the default."
                raise Unsupported(f"The reward head in {folder} reads all layers, which decoding does not.", hint)
            found[attribute] = reward
        except MixerError as error:
            problems.append(error)
    return found, problems


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise BadArtifact(f"There is no reward head in {folder}: {name} is missing.", HINT)
    try:
        record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise BadArtifact(f"The reward head in {folder} is corrupt: {error}.", HINT) from error
    if not isinstance(record, dict):
        raise BadArtifact(f"{folder / CONFIG} is no JSON object.", HINT)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BadArtifact(f"{folder / WEIGHTS} holds numbers that are not finite in {name!r}.", HINT)
    return record, tensors


def _head(folder: Path, tensors: Mapping[str, Tensor]) -> RewardHead:
    if missing := {"down", "up", "weight", "bias"} - tensors.keys():
        raise BadArtifact(f"{folder / WEIGHTS} lacks {', '.join(sorted(missing))}.", HINT)
    size, rank = tensors["weight"].shape[0], tensors["down"].shape[0]
    shapes = {"down": (rank, size), "up": (size, rank), "weight": (size,), "bias": (1,)}
    trunk = None
    if "mix" in tensors:
        trunk = Trunk(tensors["mix"], tensors.get("inner"), tensors.get("outer"))
        middle = 0 if trunk.inner is None else trunk.inner.shape[0]
        shapes |= {"mix": (len(trunk.mix),)} | ({"inner": (middle, size), "outer": (size, middle)} if middle else {})
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise BadArtifact(f"{folder / WEIGHTS}: {name!r} does not fit the other matrices.", HINT)
    return RewardHead(tensors["down"], tensors["up"], tensors["weight"], float(tensors["bias"][0]), trunk)
