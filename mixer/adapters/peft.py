"""Anchors on disk: the folder scan, PEFT's LoRA format, and what is refused with the reason.

    anchors/ATTRIBUTE/attribute.yaml          labels of the poles, a description
    anchors/ATTRIBUTE/{negative,positive}/    adapter_config.json, adapter_model.safetensors
    anchors/NAME/adapter_config.json          a single adapter: an attribute with a positive pole alone
    anchors/coupling.json                     what all of them do to all scores

Only safetensors are read. Knows nothing of gates or text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from mixer.adapters.calibration import SliderCalibration
from mixer.adapters.calibration_file import FILE as CALIBRATION
from mixer.adapters.calibration_file import load_calibration
from mixer.adapters.fingerprint import base_fingerprint
from mixer.adapters.low_rank import LowRank
from mixer.errors import BadArtifact, MixerError, Unsupported
from mixer.values.mix import POLES, Anchor, Attribute, Pole

CONFIG, WEIGHTS, LABELS = "adapter_config.json", "adapter_model.safetensors", "attribute.yaml"
TENSOR_NAME = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight$")

# What an adapter may hold beside plain LoRA, and why a gate on activations cannot serve it.
REFUSED = {
    "use_dora": "it is a DoRA adapter, whose weight norms are not linear in its coefficient",
    "modules_to_save": "it replaces whole modules (modules_to_save), which cannot be mixed by a coefficient",
    "trainable_token_indices": "it retrains token embeddings, which cannot be mixed by a coefficient",
    "target_parameters": "it adapts bare parameters, which no module's forward pass shows",
    "layer_replication": "it changes the number of layers",
    "alora_invocation_tokens": "it switches itself on by tokens (aLoRA)",
    "lora_bias": "it trains biases beside the low-rank matrices",
    "use_qalora": "it is a QALoRA adapter, which pools its input",
    "use_bdlora": "it is a block-diagonal adapter",
}
# These initializations change the base weights too; PEFT can convert such an adapter to plain LoRA when saving.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Adapter:
    """An anchor with its tensors: the low-rank parts by module name of the base model."""

    anchor: Anchor
    parts: Mapping[str, LowRank]


@dataclass(frozen=True)
class AnchorSet:
    """What a folder holds: attributes by name, their adapters in coefficient order, what was left out, and what was
    measured with these very adapters, if anything was."""

    attributes: Mapping[str, Attribute]
    adapters: tuple[Adapter, ...]
    problems: tuple[MixerError, ...]
    calibration: SliderCalibration | None = None


def anchors_fingerprint(base: str, adapters: Iterable[Adapter]) -> str:
    """16 hex digits that tell one set of adapters on one base, given by its fingerprint, from any other."""
    digest = hashlib.sha256(base.encode())
    for adapter in adapters:
        for module, part in sorted(adapter.parts.items()):
            digest.update(f"{adapter.anchor.name} {module} {part.scaling!r}".encode())
            for matrix in (part.a, part.b):
                digest.update(matrix.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_anchors(folder: Path, model: nn.Module, base: str, any_base: bool = False) -> AnchorSet:
    """Every anchor under `folder`; one that cannot be used is left out and named in `problems`.

    Args:
        model: the base, for the names and shapes of its modules.
        base: the base's name or path, compared with the one in each adapter.
        any_base: admit adapters whose files name another base, as long as their shapes fit.

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
            labels, description = _plain_labels(home.name), ""
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
    """Labels of the (negative, positive) pole and the description, from `attribute.yaml` if there is one."""
    path = home / LABELS
    if not path.is_file():
        return _plain_labels(home.name), ""
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        labels = record["labels"]
        return (str(labels["negative"]), str(labels["positive"])), str(record.get("description", ""))
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(
            f"{path} is not a description of an attribute: {' '.join(str(error).split())}.",
            "It needs `labels:` with `negative:` and `positive:`.",
        ) from error


def load_adapter(
    path: Path, attribute: str, pole: Pole, model: nn.Module, base: str, fingerprint: str, any_base: bool = False
) -> Adapter:
    """One PEFT LoRA adapter, checked against the base model.

    Raises:
        BadArtifact: files are missing, corrupt, or made for a base of another shape or name.
        Unsupported: the adapter is no plain LoRA.
    """
    config = _read_config(path)
    _refuse_unsupported(path, config)
    tensors, metadata = _read_tensors(path)
    made_for = str(config.get("base_model_name_or_path") or "")
    own = metadata.get("base_fingerprint")
    if not any_base:
        if own and own != fingerprint:
            raise BadArtifact(
                f"{path} was trained on another base model ({made_for or 'unnamed'}, fingerprint {own}; "
                f"this one has {fingerprint}).",
                "Train it again with `python -m mixer train anchors`, or load the base that it names.",
            )
        if not own and made_for and base and Path(made_for).name.lower() != Path(base).name.lower():
            raise BadArtifact(
                f"{path} was trained on {made_for}, and the base here is {base}.",
                "Load that base, or admit the adapter with any_base if you know that they are the same.",
            )
    rslora = bool(config.get("use_rslora"))
    anchor = Anchor(attribute, pole, made_for, int(config["r"]), float(config["lora_alpha"]), str(path), rslora)
    parts = {}
    for module, sides in _by_module(path, tensors).items():
        a, b = sides["A"], sides["B"]
        _check_module(path, model, module, a, b)
        alpha = _pattern(config.get("alpha_pattern"), module, anchor.lora_alpha)
        rank = a.shape[0]
        parts[module] = LowRank(a, b, alpha / (rank**0.5 if rslora else rank))
    return Adapter(anchor, parts)


def _plain_labels(name: str) -> tuple[str, str]:
    return f"less {name}", f"more {name}"


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        kind = config.get("peft_type")
    except FileNotFoundError as error:
        raise BadArtifact(f"{path} has no {CONFIG}.", "An anchor is a folder in PEFT's LoRA format.") from error
    except (ValueError, AttributeError) as error:
        raise BadArtifact(f"{path / CONFIG} is no PEFT configuration: {error}.", "Save the adapter again.") from error
    if kind != "LORA":
        raise Unsupported(f"{path} is a {kind} adapter; only LoRA can be mixed.", "Train it as LoRA.")
    if not all(isinstance(config.get(key), int | float) and config[key] > 0 for key in ("r", "lora_alpha")):
        raise BadArtifact(f"{path / CONFIG} gives no rank and lora_alpha above zero.", "Save the adapter again.")
    return config


def _refuse_unsupported(path: Path, config: Mapping[str, Any]) -> None:
    for key, reason in REFUSED.items():
        if config.get(key):
            raise Unsupported(f"{path} is refused: {reason}.", "Train a plain LoRA adapter instead.")
    if config.get("bias", "none") != "none":
        raise Unsupported(f"{path} is refused: it trains biases.", "Train it with bias='none'.")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise Unsupported(
            f"{path} is refused: its initialization ({start}) changed the base weights too.",
            "Save it with PEFT's path_initial_model_for_weight_conversion, which makes it plain LoRA.",
        )


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    file = path / WEIGHTS
    if not file.is_file():
        raise BadArtifact(f"{path} has no {WEIGHTS}.", "Only safetensors are read; save the adapter in that format.")
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}, tensors.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BadArtifact(f"{file} is corrupt: {error}.", "Fetch or train the adapter again.") from error


def _by_module(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = TENSOR_NAME.match(name)
        if not match:
            raise Unsupported(
                f"{path} holds {name!r}, which is no LoRA matrix of a linear module.", "Train a plain LoRA adapter."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise BadArtifact(f"{path} holds numbers that are not finite in {name!r}.", "Train the adapter again.")
        modules.setdefault(match[1], {})[match[2]] = tensor
    if not modules or any(sides.keys() != {"A", "B"} for sides in modules.values()):
        raise BadArtifact(f"{path} lacks lora_A or lora_B matrices.", "Save the adapter again.")
    return modules


def _check_module(path: Path, model: nn.Module, name: str, a: torch.Tensor, b: torch.Tensor) -> None:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise BadArtifact(
            f"{path} was trained on another base model: this one has no module {name!r}.",
            "Load the base that the adapter was trained on.",
        ) from None
    if ".experts." in name:
        raise Unsupported(f"{path} adapts experts ({name}), which see tokens of all rows mixed.", "Adapt the rest.")
    if isinstance(module, Conv1D):
        shape = (module.weight.shape[0], module.weight.shape[1])
    elif isinstance(module, nn.Linear):
        shape = (module.in_features, module.out_features)
    else:
        raise Unsupported(
            f"{path} adapts {name!r}, a {type(module).__name__}; only Linear and Conv1D modules can be mixed.",
            "Train the adapter on linear modules.",
        )
    if a.ndim != 2 or b.ndim != 2 or (a.shape[1], b.shape[0]) != shape or a.shape[0] != b.shape[1]:
        raise BadArtifact(
            f"{path} was trained on another base model: at {name!r} it maps {a.shape[-1]} to {b.shape[0]} numbers, "
            f"and this model {shape[0]} to {shape[1]}.",
            "Load the base that the adapter was trained on.",
        )


def _pattern(pattern: Mapping[str, float] | None, module: str, default: float) -> float:
    """PEFT's rule for `alpha_pattern`: the first key that matches the end of the module's name."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return float(value)
    return default
