"""Loading of a desk's parts: base, anchors, reward heads, judges. What cannot be used is left out and said.

Knows folders and names. Knows nothing of texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixer.adapters.anchor_set import AnchorSet, load_anchors
from mixer.adapters.fingerprint import base_fingerprint, is_other_precision, is_same_base
from mixer.adapters.peft import WEIGHTS
from mixer.errors import BadArtifact, InvalidValue, MixerError
from mixer.judges.linear import Judges, add_own_judges, load_judges
from mixer.model.base import DeviceMap, load_base, local_folder, pick_device, pick_dtype
from mixer.model.shipped_base import BaseSource, find_base
from mixer.resources import ANCHORS, JUDGES, PAIRS, TINY_ANCHORS
from mixer.rewards.files import load_rewards
from mixer.rewards.heads import Reward

TRAIN = "Train some: `python -m mixer train anchors --base BASE --out FOLDER`, then `--anchors FOLDER`."


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory, and where it came from."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: BaseSource


@dataclass(frozen=True)
class Extras:
    """What is loaded beside a base.

    Attributes:
        problems: what was left out, and why. notes: what people should know, one sentence each.
    """

    anchors: AnchorSet
    judges: Judges | None
    rewards: Mapping[str, Reward]
    problems: list[MixerError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_resident(
    base: str | Path | None, device: str, dtype: str, quantize: str | None, device_map: DeviceMap | None
) -> LoadedBase:
    """Load the base of a desk; see `Desk.load`.

    Raises:
        MixerError: it cannot be loaded.
    """
    if device_map is not None and device != "auto":
        raise InvalidValue(f"The device {device!r} and a device map exclude each other.", "Give one of them.")
    where = pick_device(device)
    found = find_base(base)
    lm, tokenizer = load_base(found.source, where, pick_dtype(dtype, where, quantize), quantize, device_map)
    return LoadedBase(lm, tokenizer, found)


def load_extras(base: LoadedBase, anchors: str | Path | None, judges: str | Path | None, any_base: bool) -> Extras:
    """Load anchors, reward heads and judges for a base; see `Desk.load`."""
    problems: list[MixerError] = []
    notes = [base.source.note] if base.source.note else []
    found, loaded, rewards, folder = AnchorSet({}, (), ()), None, {}, None
    fingerprint = base_fingerprint(base.lm)
    try:
        folder = local_folder(str(anchors)) if anchors else shipped_anchors(fingerprint)
        if folder is None and any_base:
            folder = TINY_ANCHORS
        if folder is None:
            notes.append(f"No anchors are shipped for {base.source.shown}, so there are no sliders. {TRAIN}")
        else:
            found = load_anchors(folder, base.lm, base.source.name, any_base)
            size = base.lm.config.get_text_config().hidden_size
            rewards, odd = load_rewards(folder, size, None if any_base else fingerprint)
            problems += (*found.problems, *odd)
        if any(is_other_precision(one.trained_on, fingerprint) for one in found.adapters if one.trained_on):
            notes.append("The anchors were trained on this model in another precision.")
    except BadArtifact as error:
        problems.append(error)
    if judges or JUDGES.is_dir():
        try:
            loaded = load_judges(Path(judges or JUDGES))
            if folder is not None:
                loaded, odd = add_own_judges(loaded, folder)
                problems += odd
        except BadArtifact as error:
            problems.append(error)
    return Extras(found, loaded, rewards, problems, notes)


def shipped_anchors(fingerprint: str) -> Path | None:
    """The shipped folder of anchors that were trained on the base with this fingerprint; None if there is none."""
    for folder in sorted(path for path in ANCHORS.iterdir() if path.is_dir() and path != PAIRS):
        weights = next(iter(sorted(folder.glob(f"*/*/{WEIGHTS}"))), None)
        if weights is None:
            continue
        try:
            with safe_open(weights, framework="pt") as tensors:
                trained_on = (tensors.metadata() or {}).get("base_fingerprint", "")
        except (SafetensorError, OSError):  # loading this folder by name gives the reason
            continue
        if is_same_base(trained_on, fingerprint):
            return folder
    return None
