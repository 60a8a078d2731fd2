"""The fingerprint of a base model: a short digest that identifies it.

It has two parts. The first is taken from the input embedding and tells one file from another. The second is taken from
the norms, which every quantization leaves as they are: where it alone agrees, the weights are the same model's in
another precision, and its anchors fit.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def base_fingerprint(model: nn.Module) -> str:
    """Two times 16 hex digits, `EMBEDDING.NORMS`, the same in whatever dtype the model was loaded.

    The digest of a sample of the input embedding and that of all norms, rounded to bfloat16. A model whose norms tell
    nothing, because there are none or they were never trained, has the first part alone.
    """
    weight: Tensor = model.get_input_embeddings().weight.detach()  # type: ignore[operator, union-attr]
    digest = hashlib.sha256(repr(tuple(weight.shape)).encode())
    digest.update(_bytes(weight[:: max(1, weight.shape[0] // 1024)]))
    norms = {name: own for name, own in model.named_parameters() if own.ndim == 1 and name.endswith("norm.weight")}
    if all(bool((own == 1).all()) for own in norms.values()):
        return digest.hexdigest()[:16]
    second = hashlib.sha256(repr(tuple(weight.shape)).encode())
    for name in sorted(norms):
        second.update(_bytes(norms[name]))
    return f"{digest.hexdigest()[:16]}.{second.hexdigest()[:16]}"


def is_same_base(recorded: str, found: str) -> bool:
    """Whether two fingerprints are of one model, in whatever precision. Files of old have the first part alone."""
    parts, others = recorded.split("."), found.split(".")
    return parts[-1] == others[-1] if len(parts) == len(others) == 2 else parts[0] == others[0]


def is_other_precision(recorded: str, found: str) -> bool:
    """Whether they are of one model in two precisions."""
    return is_same_base(recorded, found) and recorded.split(".")[0] != found.split(".")[0]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
