"""Base models on disk or on the hub, brought into memory. Knows nothing of anchors, gates or text."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mixer.errors import BadArtifact, InvalidValue, Unsupported

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str = "auto") -> torch.device:
    """The device by name; `auto` takes CUDA, then Apple's, then the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValue(f"The device {device!r} cannot be used: {reason}", "Try auto, cpu or cuda.") from error


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype by name; `auto` is float32 on a CPU, where the laws hold most closely, and bfloat16 elsewhere."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise InvalidValue(f"There is no dtype {dtype!r} here.", f"Choose auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def load_base(base: str, device: torch.device, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM and its tokenizer, from a local folder or a hub id.

    Raises:
        BadArtifact: it is not there, not complete, or no causal LM. Pickled weights are never read.
    """
    if _is_path(base) and not Path(base).is_dir():
        raise BadArtifact(f"There is no base model at {base}.", "Give a folder or hub id of a causal LM.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        lm = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, device_map={"": device}, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadArtifact(
            f"The base model {base!r} cannot be loaded: {reason}",
            "Give a folder or hub id of a causal LM with safetensors.",
        ) from error
    if not tokenizer.is_fast:
        raise Unsupported(f"The tokenizer of {base!r} is a slow one.", "Convert it to a tokenizer.json.")
    return lm.eval(), tokenizer


def _is_path(name: str) -> bool:
    """Whether a name cannot be a hub id, which is NAME or OWNER/NAME."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def local_folder(name: str) -> Path:
    """A folder by path, or fetched from the hub where `name` has the form OWNER/NAME and is no path here.

    Raises:
        BadArtifact: it is neither.
    """
    path = Path(name)
    if path.is_dir():
        return path
    reason = "it has not the form OWNER/NAME of a hub id either"
    if not _is_path(name):
        try:
            return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.yaml"]))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = "the hub did not give it either: " + " ".join(str(error).split())[:200]
    raise BadArtifact(f"There is no folder {name}; {reason}.", "Check the path.")
