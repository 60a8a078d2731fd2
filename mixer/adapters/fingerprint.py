"""The fingerprint of a base model: a short digest that identifies it."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def base_fingerprint(model: nn.Module) -> str:
    """16 hex digits that identify a base model among others of the same shape, in whatever dtype it was loaded.

    The digest of a sample of the input embedding, which is never quantized, rounded to bfloat16.
    """
    weight: torch.Tensor = model.get_input_embeddings().weight.detach()  # type: ignore[operator, union-attr]
    sample = weight[:: max(1, weight.shape[0] // 1024)].to("cpu", torch.bfloat16).contiguous()
    digest = hashlib.sha256(repr(tuple(weight.shape)).encode())
    digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
