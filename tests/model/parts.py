"""What tests of backends share."""

from __future__ import annotations

from mixer.model.backend import Backend
from mixer.model.cpu_backend import CpuBackend


def batch_exact(backend: Backend) -> bool:
    """Whether a row's logits are the same bit for bit, whatever else a call holds."""
    return isinstance(backend, CpuBackend)
