"""One LoRA adapter in PEFT's format: read, checked against the base model, and refused with a reason.

Only safetensors are read. Knows nothing of other adapters, gates or text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from mixer.adapters.fingerprint import is_same_base
from mixer.adapters.low_rank import LowRank
from mixer.errors import BadArtifact, Unsupported
from mixer.values.mix import Anchor, Pole

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TENSOR_NAME = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight$")

# What an adapter may have besides plain LoRA, and why a gate on activations cannot mix it.
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
    """An anchor with its matrices, by the module names of the base model.

    Attributes:
        trained_on: the fingerprint of the base that it was trained on; empty where its file has none.
    """

    anchor: Anchor
    parts: Mapping[str, LowRank]
    trained_on: str = ""


def load_adapter(
    path: Path, attribute: str, pole: Pole, model: nn.Module, base: str, fingerprint: str, any_base: bool = False
) -> Adapter:
    """Read one PEFT LoRA adapter, and check it against the base model.

    Args:
        base: the base's name or path. fingerprint: of the base.
        any_base: accept an adapter whose file names another base, as long as its shapes fit.

    Raises:
        BadArtifact: files are missing, corrupt, or made for a base of another shape or name.
        Unsupported: the adapter is not plain LoRA.
    """
    config = _read_config(path)
    _refuse_unsupported(path, config)
    tensors, metadata = _read_tensors(path)
    named_base = str(config.get("base_model_name_or_path") or "")
    trained_on = metadata.get("base_fingerprint")
    if not any_base:
        if trained_on and not is_same_base(trained_on, fingerprint):
            raise BadArtifact(
                f"{path} was trained on another base model ({named_base or 'unnamed'}, fingerprint {trained_on}; "
                f"this one has {fingerprint}).",
                "Train it again with `python -m mixer train anchors`, or load the base that it names.",
            )
        if not trained_on and named_base and base and Path(named_base).name.lower() != Path(base).name.lower():
            raise BadArtifact(
                f"{path} was trained on {named_base}, and the base here is {base}.",
                "Load that base, or admit the adapter with any_base if you know that they are the same.",
            )
    rslora = bool(config.get("use_rslora"))
    anchor = Anchor(attribute, pole, named_base, int(config["r"]), float(config["lora_alpha"]), str(path), rslora)
    parts = {}
    for module, sides in _by_module(path, tensors).items():
        a, b = sides["A"], sides["B"]
        _check_module(path, model, module, a, b)
        alpha = _pattern(config.get("alpha_pattern"), module, anchor.lora_alpha)
        rank = a.shape[0]
        parts[module] = LowRank(a, b, alpha / (rank**0.5 if rslora else rank))
    return Adapter(anchor, parts, trained_on or "")


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
    """The value of a module by PEFT's rule for patterns: that of the first key that matches the end of its name."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return float(value)
    return default
