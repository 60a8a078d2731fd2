"""The LoRA stack: every anchor's adapter laid side by side, weighed per batch row by a gate.

    y = W0 x + B (g * (A x))        A (R, D_in), B (D_out, R), g (rows, R), R = sum of the anchors' ranks

A slider move rewrites entries of g and nothing else: W0 is never written, and rows are independent. The stack hangs on
the base model as forward hooks, so the base keeps its own modules, names and weights. Knows nothing of files or tokens.

Source: arXiv 2404.07117, equation 3, with the sum taken over activations instead of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LowRank:
    """One adapter's part on one module: `delta = scaling * b @ a`, with a `(r, D_in)` and b `(D_out, r)`."""

    a: Tensor
    b: Tensor
    scaling: float


class Panel:
    """The live coefficients of one batch, a `(rows, R)` tensor in the model's dtype.

    Args:
        ranks: width of each anchor's slot in the gate, `(K,)`.
        rows: batch rows; all begin at zero, the base model.
    """

    def __init__(self, ranks: Sequence[int], rows: int, device: torch.device, dtype: torch.dtype) -> None:
        ends = torch.tensor([0, *ranks]).cumsum(0).tolist()
        self._slots = [slice(start, end) for start, end in pairwise(ends)]
        self._coefficients = [(0.0,) * len(ranks) for _ in range(rows)]
        self._staged = torch.zeros(rows, ends[-1])
        on_host = device.type == "cpu" and dtype == torch.float32
        self.values = self._staged if on_host else self._staged.to(device, dtype)

    def set(self, row: int, coefficients: tuple[float, ...]) -> None:
        """Move one row's coefficients, `(K,)`; only slots that changed are rewritten."""
        staged = self._staged.numpy()[row]
        for slot, former, coefficient in zip(self._slots, self._coefficients[row], coefficients, strict=True):
            if coefficient != former:
                staged[slot] = coefficient
        self._coefficients[row] = coefficients
        if self.values is not self._staged:
            self.values[row].copy_(self._staged[row], non_blocking=True)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        on_host = self.values is self._staged
        self._coefficients = [self._coefficients[row] for row in rows]
        self._staged = self._staged[list(rows)]
        self.values = self._staged if on_host else self.values[list(rows)]

    def row(self, row: int) -> Tensor | None:
        """One row's gate as a batch of one, `(1, R)`; None where it is the base."""
        return self.values[row : row + 1] if any(self._coefficients[row]) else None

    @property
    def gate(self) -> Tensor | None:
        """The whole gate `(rows, R)`; None where every row is the base, so that the stack costs nothing."""
        return self.values if any(map(any, self._coefficients)) else None


class LoRAStack:
    """All anchors on all adapted modules of one model.

    Args:
        model: the base model; its modules get a forward hook each.
        adapters: each anchor's parts by module name, in coefficient order. Where an anchor lacks a module or has a
            smaller rank there, its slot is filled with zeros.
    """

    def __init__(
        self, model: nn.Module, adapters: Sequence[Mapping[str, LowRank]], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.ranks = [max(part.a.shape[0] for part in parts.values()) for parts in adapters]
        self.device, self.dtype = device, dtype
        self._gate: Tensor | None = None
        names = dict.fromkeys(name for parts in adapters for name in parts)
        for name in names:
            module = model.get_submodule(name)
            a_t, b_t = self._stacked(name, adapters)
            # Where accelerate spreads a model over several devices, the stack lies with its module.
            home = next(module.parameters()).device
            module.register_forward_hook(self._hook(a_t.to(home, dtype), b_t.to(home, dtype)))

    def panel(self, rows: int) -> Panel:
        """Coefficients for a batch of `rows`, all zero."""
        return Panel(self.ranks, rows, self.device, self.dtype)

    @contextmanager
    def applied(self, gate: Tensor | None):
        """Forward passes inside run with this gate `(rows, R)`; None is the base model."""
        self._gate = gate
        try:
            yield
        finally:
            self._gate = None

    def _stacked(self, name: str, adapters: Sequence[Mapping[str, LowRank]]) -> tuple[Tensor, Tensor]:
        """A transposed `(D_in, R)` and B transposed `(R, D_out)`, float32, scaling inside B."""
        first = next(parts[name] for parts in adapters if name in parts)
        a = torch.zeros(sum(self.ranks), first.a.shape[1])
        b_t = torch.zeros(sum(self.ranks), first.b.shape[0])
        start = 0
        for rank, parts in zip(self.ranks, adapters, strict=True):
            if part := parts.get(name):
                own = part.a.shape[0]
                a[start : start + own] = part.a.float()
                b_t[start : start + own] = part.b.float().T * part.scaling
            start += rank
        return a.T, b_t

    def _hook(self, a_t: Tensor, b_t: Tensor):
        def add_delta(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            gate = self._gate
            if gate is None:
                return output
            # Some models flatten rows and positions before their MLP: the gate's rows tell them apart again.
            x = args[0].reshape(gate.shape[0], -1, a_t.shape[0])
            delta = ((x.to(a_t.dtype) @ a_t) * gate.to(a_t.device).unsqueeze(1)) @ b_t
            return output + delta.view(output.shape).to(output.dtype)

        return add_delta
