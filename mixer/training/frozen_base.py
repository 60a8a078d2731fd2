"""Loading a base model that adapters and reward models are trained on."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from mixer.model import base as resident


def load_base(base: Path | str, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model by path or hub id and its tokenizer, without gradients, in its stored dtype.

    A float16 model is loaded as bfloat16: gradients in float16 would underflow without loss scaling.

    Raises:
        BadArtifact: it is not there, or no causal language model.
    """
    chosen = resident.pick_device(device)
    try:
        stored = AutoConfig.from_pretrained(base).dtype
    except (OSError, ValueError):
        stored = None  # loading the weights will raise with the reason
    known = stored if isinstance(stored, torch.dtype) else torch.float32
    dtype = torch.bfloat16 if known == torch.float16 else known
    model, tokenizer = resident.load_base(str(base), chosen, dtype)
    if chosen.type == "cpu":
        # See `training.base`: the flash kernel's backward is slow on a CPU, and these texts are too short to need it.
        model.set_attn_implementation("eager")
    return model.requires_grad_(False), tokenizer


def portable_name(base: Path | str) -> str:
    """A base's name as files give it: a hub id as it is, of a folder the last two parts of its path."""
    path = Path(base)
    return "/".join(path.resolve().parts[-2:]) if path.is_dir() else str(base)
