"""The anchors in a folder: its attributes, their adapters, labels and calibration, and what cannot be used.

    anchors/ATTRIBUTE/attribute.yaml          labels of the poles, a description; without it, the shipped ones if any
    anchors/ATTRIBUTE/{negative,positive}/    adapter_config.json, adapter_model.safetensors
    anchors/NAME/adapter_config.json          a single adapter: an attribute with a positive pole alone
    anchors/coupling.json                     the slider calibration: what all anchors do to all scores

An attribute's folder may also hold what other modules read: `reward/`, `judge.safetensors` and `pairs.jsonl`.

Knows the folder; the adapters' own format is in `peft`. Knows nothing of gates or text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from mixer.adapters.calibration import SliderCalibration
from mixer.adapters.calibration_file import FILE as CALIBRATION
from mixer.adapters.calibration_file import load_calibration
from mixer.adapters.fingerprint import base_fingerprint
from mixer.adapters.peft import CONFIG, Adapter, load_adapter
from mixer.errors import BadArtifact, MixerError
from mixer.resources import PAIRS
from mixer.values.mix import POLES, Attribute, Pole

LABELS = "attribute.yaml"


@dataclass(frozen=True)
class AnchorSet:
    """What is in an anchors folder.

    Attributes:
        attributes: by name.
        adapters: in coefficient order.
        problems: why something was left out.
        calibration: measured with these adapters on this base; None if there is none.
    """

    attributes: Mapping[str, Attribute]
    adapters: tuple[Adapter, ...]
    problems: tuple[MixerError, ...]
    calibration: SliderCalibration | None = None


def anchors_fingerprint(base: str, adapters: Iterable[Adapter]) -> str:
    """16 hex digits that identify a set of adapters on a base.

    Args:
        base: the base's fingerprint. Adapters that name the base that they were trained on count as on that one, so
            that the same model in another precision gives the same digits.
    """
    adapters = list(adapters)
    named = {adapter.trained_on for adapter in adapters if adapter.trained_on}
    digest = hashlib.sha256((named.pop() if len(named) == 1 else base).encode())
    for adapter in adapters:
        for module, part in sorted(adapter.parts.items()):
            digest.update(f"{adapter.anchor.name} {module} {part.scaling!r}".encode())
            for matrix in (part.a, part.b):
                digest.update(matrix.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_anchors(folder: Path, model: nn.Module, base: str, any_base: bool = False) -> AnchorSet:
    """Load all anchors in a folder; those that cannot be used are left out, with the reason in `problems`.

    Args:
        model: the base, for the names and shapes of its modules.
        base: the base's name or path, which is compared with the name in each adapter.
        any_base: accept adapters whose files name another base, as long as their shapes fit.

    Raises:
        BadArtifact: there is no such folder.
    """
    if not folder.is_dir():
        raise BadArtifact(f"There is no anchors folder at {folder}.", "Train one, or give --anchors another folder.")
    attributes, adapters, problems = {}, [], []
    fingerprint = base_fingerprint(model)

    def load(path: Path, attribute: str, pole: Pole) -> Adapter | None:
        try:
            return load_adapter(path, attribute, pole, model, base, fingerprint, any_base)
        except MixerError as error:
            problems.append(error)
            return None

    for home in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        single = (home / CONFIG).is_file()
        paths: dict[Pole, Path] = {pole: home / pole for pole in POLES if (home / pole).is_dir()}
        if single:
            paths = {"positive": home}
        found = {pole: load(path, home.name, pole) for pole, path in paths.items()}
        try:
            labels, description = read_labels(home)
        except MixerError as error:
            problems.append(error)
            labels, description = plain_labels(home.name), ""
        loaded = [found[pole] for pole in POLES if found.get(pole)]
        if loaded:
            poles = {adapter.anchor.pole: adapter.anchor for adapter in loaded if adapter}
            attributes[home.name] = Attribute(
                home.name, poles.get("negative"), poles.get("positive"), labels, description
            )
            adapters += loaded
    calibration = None
    try:
        if (folder / CALIBRATION).is_file():
            calibration = load_calibration(folder / CALIBRATION, anchors_fingerprint(fingerprint, adapters))
    except MixerError as error:
        problems.append(error)
    return AnchorSet(attributes, tuple(adapters), tuple(problems), calibration)


def read_labels(home: Path) -> tuple[tuple[str, str], str]:
    """Labels of the (negative, positive) pole and the description, from its own file or the shipped one of its name.

    Raises:
        BadArtifact: the file is damaged.
    """
    path = home / LABELS if (home / LABELS).is_file() else PAIRS / f"{home.name}.yaml"
    return read_labels_file(path) if path.is_file() else (plain_labels(home.name), "")


def read_labels_file(path: Path) -> tuple[tuple[str, str], str]:
    """Labels of the (negative, positive) pole and the description in a file.

    Raises:
        BadArtifact: the file is damaged.
    """
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        labels = record["labels"]
        return (str(labels["negative"]), str(labels["positive"])), str(record.get("description", ""))
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(
            f"{path} is not a description of an attribute: {' '.join(str(error).split())}.",
            "It needs `labels:` with `negative:` and `positive:`.",
        ) from error


def plain_labels(name: str) -> tuple[str, str]:
    """Labels of the (negative, positive) pole of an attribute that nobody gave any."""
    return f"less {name}", f"more {name}"
