"""Loading a base model that adapters and reward models are trained on."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from mixer.errors import InvalidValue
from mixer.model import base as resident
from mixer.model.shipped_base import find_base
from mixer.resources import OUTPUTS


def load_base(base: Path | str | None, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, without gradients, in its stored dtype.

    Args:
        base: see `mixer.model.shipped_base.find_base`.

    A float16 model is loaded as bfloat16: gradients in float16 would underflow without loss scaling.

    Raises:
        BadArtifact: it is not there, or no causal language model.
    """
    chosen = resident.pick_device(device)
    source = find_base(base).source
    try:
        stored = AutoConfig.from_pretrained(source).dtype
    except (OSError, ValueError):
        stored = None  # loading the weights will raise with the reason
    known = stored if isinstance(stored, torch.dtype) else torch.float32
    dtype = torch.bfloat16 if known == torch.float16 else known
    model, tokenizer = resident.load_base(source, chosen, dtype)
    if chosen.type == "cpu":
        # See `training.base`: the flash kernel's backward is slow on a CPU, and these texts are too short to need it.
        model.set_attn_implementation("eager")
    return model.requires_grad_(False), tokenizer


def portable_name(base: Path | str | None) -> str:
    """A base's name as files give it: a hub id as it is, of a folder the last two parts of its path."""
    return find_base(base).name


def own_folder(base: Path | str | None) -> Path:
    """Where the anchors and heads that are shipped for a base lie.

    Raises:
        InvalidValue: none are shipped for it.
    """
    name = find_base(base).anchors
    if not name:
        raise InvalidValue("Nothing is shipped for this base, so it has no folder.", "Give --out a folder.")
    return OUTPUTS / "anchors" / name
