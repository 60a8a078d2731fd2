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
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LowRank:
    """One adapter's part on one module: `delta = scaling * b @ a`, with a `(r, D_in)` and b `(D_out, r)`."""

    a: Tensor
    b: Tensor
    scaling: float


def ranks_of(adapters: Sequence[Mapping[str, LowRank]]) -> list[int]:
    """The width of each anchor's slot, `(K,)`: its largest rank on any module."""
    return [max(part.a.shape[0] for part in parts.values()) for parts in adapters]


def stacked(
    name: str, adapters: Sequence[Mapping[str, LowRank]], ranks: Sequence[int], d_in: int, d_out: int
) -> tuple[Tensor, Tensor]:
    """All anchors' parts on one module: A `(R, D_in)` and B `(D_out, R)`, float32, with the scaling inside B.

    Args:
        name: of the module; where an anchor lacks it or has a smaller rank there, its slot is filled with zeros.
        ranks: width of each anchor's slot, `(K,)`.
    """
    a, b = torch.zeros(sum(ranks), d_in), torch.zeros(d_out, sum(ranks))
    for (start, _), parts in zip(pairwise(accumulate(ranks, initial=0)), adapters, strict=True):
        if part := parts.get(name):
            own = slice(start, start + part.a.shape[0])
            a[own], b[:, own] = part.a.float(), part.b.float() * part.scaling
    return a, b


def side_by_side(pairs: Sequence[tuple[Tensor, Tensor]], size: int) -> tuple[Tensor, Tensor]:
    """Low-rank maps of one space, `(r, D)` and `(D, r)` each, as one pair `(R, D)` and `(D, R)`, float32 on the CPU."""
    downs = [torch.zeros(0, size), *(down.detach().cpu().float() for down, _ in pairs)]
    ups = [torch.zeros(size, 0), *(up.detach().cpu().float() for _, up in pairs)]
    return torch.cat(downs), torch.cat(ups, dim=1)


class Gate:
    """The live coefficients of all rows, `(rows, R)` float32 in host memory.

    Args:
        ranks: width of each anchor's slot, `(K,)`.
        rows: how many; none is in use yet.

    Attributes:
        values: what the stack multiplies with: a row's coefficients less those that are folded into the weights, each
            repeated over its anchor's slot; zeros in rows that are not in use.
        folded: coefficients that are in the weights already, `(K,)`.
    """

    def __init__(self, ranks: Sequence[int], rows: int) -> None:
        ends = [0, *accumulate(ranks)]
        self.values = torch.zeros(rows, ends[-1])
        self.folded = (0.0,) * len(ranks)
        self._slots = list(pairwise(ends))
        self._coefficients: list[tuple[float, ...] | None] = [None] * rows
        self._residuals = [self.folded] * rows
        self._writes = 0
        self._live: tuple[tuple[Sequence[int], int], np.ndarray] | None = None

    def __getitem__(self, row: int) -> tuple[float, ...] | None:
        """One row's coefficients, `(K,)`; None where it is not in use."""
        return self._coefficients[row]

    def __setitem__(self, row: int, coefficients: tuple[float, ...] | None) -> None:
        """Move one row's coefficients, `(K,)`; only slots that changed are rewritten. None puts the row out of use."""
        self._coefficients[row] = coefficients
        if coefficients is None:
            self._write(row, (0.0,) * len(self.folded))
        elif any(self.folded):
            self._write(row, tuple(c - f for c, f in zip(coefficients, self.folded, strict=True)))
        else:
            self._write(row, coefficients)

    def fold(self, coefficients: tuple[float, ...]) -> None:
        """From now on these coefficients are in the weights."""
        self.folded = coefficients
        for row, own in enumerate(self._coefficients):
            if own is not None:
                self[row] = own

    def live(self, rows: Sequence[int]) -> np.ndarray:
        """The columns that are not zero in all of these rows, ascending int64; what is not live costs nothing."""
        key = (rows, self._writes)
        if self._live is None or self._live[0] != key:
            self._live = key, np.flatnonzero(self.values.numpy()[list(set(rows))].any(axis=0))
        return self._live[1]

    def _write(self, row: int, residual: tuple[float, ...]) -> None:
        former = self._residuals[row]
        if residual == former:
            return
        values = self.values.numpy()[row]
        for (start, stop), old, new in zip(self._slots, former, residual, strict=True):
            if old != new:
                values[start:stop] = new
        self._residuals[row] = residual
        self._writes += 1


class LoRAStack:
    """All anchors on all adapted modules of one model.

    Args:
        model: the base model; its modules get a forward hook each.
        adapters: each anchor's parts by module name, in coefficient order.
        dtype: of the stacked matrices; the model's.
    """

    def __init__(self, model: nn.Module, adapters: Sequence[Mapping[str, LowRank]], dtype: torch.dtype) -> None:
        self.ranks = ranks_of(adapters)
        self._gate: Tensor | None = None
        sizes = {name: (part.a.shape[1], part.b.shape[0]) for parts in adapters for name, part in parts.items()}
        for name, (d_in, d_out) in sizes.items():
            module = model.get_submodule(name)
            a, b = stacked(name, adapters, self.ranks, d_in, d_out)
            # Where accelerate spreads a model over several devices, the stack lies with its module.
            home = next(module.parameters()).device
            module.register_forward_hook(self._hook(a.T.to(home, dtype), b.T.to(home, dtype)))

    @contextmanager
    def applied(self, gate: Tensor | None):
        """Forward passes inside run with this gate `(rows, R)`; None is the base model."""
        self._gate = gate
        try:
            yield
        finally:
            self._gate = None

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
