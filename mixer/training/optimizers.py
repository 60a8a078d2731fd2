"""Optimizers that keep float32 masters of weights in other dtypes, so that small updates are not lost by rounding.

Know parameters; no model, no data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class MasterOptimizer:
    """Muon on matrices and AdamW on other weights and embeddings, on float32 masters of a model's bfloat16 weights."""

    def __init__(self, model: torch.nn.Module, matrix_lr: float, other_lr: float) -> None:
        self.weights = list(model.parameters())
        self.masters = [weight.detach().float().clone() for weight in self.weights]
        is_matrix = [w.ndim == 2 and "embed" not in n and "lm_head" not in n for n, w in model.named_parameters()]
        matrices = [m for m, matrix in zip(self.masters, is_matrix, strict=True) if matrix]
        others = [m for m, matrix in zip(self.masters, is_matrix, strict=True) if not matrix]
        self.parts = [
            torch.optim.Muon(matrices, lr=matrix_lr, momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        self.peaks = (matrix_lr, other_lr)

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update at `scale` times the peak learning rates; the masters are rounded into the model."""
        for master, weight in zip(self.masters, self.weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        for part, peak in zip(self.parts, self.peaks, strict=True):
            part.param_groups[0]["lr"] = peak * scale
            part.step()
        for master, weight in zip(self.masters, self.weights, strict=True):
            weight.copy_(master)

    def state_dict(self) -> dict:
        return {"masters": self.masters, "parts": [part.state_dict() for part in self.parts]}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        for master, weight, saved in zip(self.masters, self.weights, state["masters"], strict=True):
            master.copy_(saved)
            weight.copy_(saved)
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


class MasterAdamW:
    """AdamW on float32 masters of weights, in whatever dtype the model computes."""

    def __init__(self, weights: Sequence[torch.nn.Parameter], lr: float) -> None:
        self.weights, self.lr = list(weights), lr
        self.masters = [weight.detach().float().clone() for weight in self.weights]
        self.inner = torch.optim.AdamW(self.masters, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update at `scale` times the peak learning rate, gradients clipped to norm 1."""
        for master, weight in zip(self.masters, self.weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.inner.param_groups[0]["lr"] = self.lr * scale
        self.inner.step()
        for master, weight in zip(self.masters, self.weights, strict=True):
            weight.copy_(master)
