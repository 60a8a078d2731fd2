"""A mix added to packed weights: `folded = round(W + sum of c s B A)`, float32 sums, rounded once.

The sum of the deltas is kept, so that a slider move multiplies the adapters that it changes and no others. Knows packed
arrays alone; not which mix is folded, nor when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mixer.kernels.folding import add_products
from mixer.kernels.layout import LoraArrays, Weights

GROUPS = Weights._fields[:-1]  # all but the output head, which no adapter changes
REFRESH = 256  # folds after which the sum is computed anew, so that rounding errors do not add up


class WeightFolder:
    """Folds mixes into copies of the base's packed weights.

    Args:
        weights: the base's, never written.
        lora: all anchors' adapters.
        slots: each anchor's columns in the adapters.
        keep: whether to keep the sum of the deltas, which takes as much memory as float32 weights; without it every
            fold begins at the base.

    Attributes:
        deltas: the sum of the deltas by group of modules, float32 in the shape of its weights.
        folded: the weights with the mix in them, by group.
    """

    def __init__(self, weights: Weights, lora: LoraArrays, slots: Sequence[tuple[int, int]], keep: bool) -> None:
        self._base, self._lora, self._slots, self._keep = weights, lora, slots, keep
        self._coefficients: tuple[float, ...] = (0.0,) * len(slots)
        self.deltas: dict[str, np.ndarray] = {}
        self.folded: dict[str, np.ndarray] = {}
        self._moves = 0

    def fold(self, coefficients: tuple[float, ...]) -> Weights:
        """The base's weights with this mix in them, `(K,)` coefficients; the base's own arrays where all are zero."""
        if not any(coefficients):
            self._coefficients = coefficients
            if not self._keep:
                self.folded = {}
            return self._base
        fresh = not any(self._coefficients) or not self._keep or self._moves >= REFRESH
        self._moves = 0 if fresh else self._moves + 1
        before = (0.0,) * len(self._slots) if fresh else self._coefficients
        changes = {
            column: new - old
            for (start, stop), old, new in zip(self._slots, before, coefficients, strict=True)
            if new != old
            for column in range(start, stop)
        }
        for group in GROUPS:
            base: np.ndarray = getattr(self._base, group)
            delta = self.deltas.get(group)
            if delta is None:
                delta = self.deltas[group] = np.zeros(base.shape, np.float32)
            elif fresh:
                delta.fill(0)
            self._add_changes(group, delta, changes)
            if group not in self.folded:
                self.folded[group] = np.empty_like(base)
            _add_rounded(base, delta, self.folded[group])
            if not self._keep:
                del self.deltas[group]
        self._coefficients = coefficients
        return self._base._replace(**self.folded)

    def _add_changes(self, group: str, delta: np.ndarray, changes: Mapping[int, float]) -> None:
        """Add the products of these adapter columns, times what their coefficients changed by, to a group's delta."""
        ranks, factor = list(changes), np.array(list(changes.values()), np.float32)
        first = 0
        for a, b in zip(getattr(self._lora, f"{group}_a"), getattr(self._lora, f"{group}_b"), strict=True):
            if a.shape[1] and ranks:
                factors = np.ascontiguousarray((as_float32(a[:, ranks]) * factor[:, None]).swapaxes(1, 2))
                add_products(delta, first, factors, as_float32(b[:, :, ranks]))
            first += b.shape[1]


def as_float32(array: np.ndarray) -> np.ndarray:
    """A contiguous float32 array, of float32 or of bfloat16 as uint16."""
    array = np.ascontiguousarray(array)
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def _add_rounded(base: np.ndarray, delta: np.ndarray, out: np.ndarray) -> None:
    """`out = round(base + delta)`, layer by layer."""
    for layer in range(base.shape[0]):
        if base.dtype == np.float32:
            np.add(base[layer], delta[layer], out=out[layer])
        else:
            own, total = torch.from_numpy(base[layer]).view(torch.bfloat16), torch.from_numpy(delta[layer])
            torch.from_numpy(out[layer]).view(torch.bfloat16).copy_(own.float() + total)
