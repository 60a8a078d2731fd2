"""A mix added to packed weights: `folded = round(W + sum of c s B A)`, float32 sums, rounded once.

The sum of the deltas is kept, so that a move adds the product of what changed and nothing else. Knows packed arrays
alone; which mix, and when, is decided above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mixer.kernels.folding import add_products
from mixer.kernels.layout import LoraArrays, Weights

GROUPS = Weights._fields[:-1]  # all but the head, which nobody adapts
REFRESH = 256  # moves after which the sum is computed anew, so that rounding errors do not add up


class WeightFolder:
    """Folds mixes into copies of the base's packed weights.

    Args:
        weights: the base's, never written.
        lora: all anchors' adapters.
        slots: each anchor's columns in the adapters.
        keep: whether to keep the sum of the deltas, which takes as much memory as float32 weights; without it every
            fold begins at the base.
    """

    def __init__(self, weights: Weights, lora: LoraArrays, slots: Sequence[tuple[int, int]], keep: bool) -> None:
        self._base, self._lora, self._slots, self._keep = weights, lora, slots, keep
        self._held: tuple[float, ...] = (0.0,) * len(slots)
        self._deltas: dict[str, np.ndarray] = {}
        self._folded: dict[str, np.ndarray] = {}
        self._moves = 0

    def fold(self, coefficients: tuple[float, ...]) -> Weights:
        """The base's weights with this mix in them, `(K,)` coefficients; the base's own arrays where all are zero."""
        if not any(coefficients):
            self._held = coefficients
            if not self._keep:
                self._folded = {}
            return self._base
        fresh = not any(self._held) or not self._keep or self._moves >= REFRESH
        self._moves = 0 if fresh else self._moves + 1
        former = (0.0,) * len(self._slots) if fresh else self._held
        changes = {
            column: new - old
            for (start, stop), old, new in zip(self._slots, former, coefficients, strict=True)
            if new != old
            for column in range(start, stop)
        }
        for group in GROUPS:
            base: np.ndarray = getattr(self._base, group)
            delta = self._deltas.get(group)
            if delta is None:
                delta = self._deltas[group] = np.zeros(base.shape, np.float32)
            elif fresh:
                delta.fill(0)
            self._add(group, delta, changes)
            if group not in self._folded:
                self._folded[group] = np.empty_like(base)
            _sum(base, delta, self._folded[group])
            if not self._keep:
                del self._deltas[group]
        self._held = coefficients
        return self._base._replace(**self._folded)

    def _add(self, group: str, delta: np.ndarray, changes: Mapping[int, float]) -> None:
        ranks, factor = list(changes), np.array(list(changes.values()), np.float32)
        first = 0
        for a, b in zip(getattr(self._lora, f"{group}_a"), getattr(self._lora, f"{group}_b"), strict=True):
            if a.shape[1] and ranks:
                factors = np.ascontiguousarray((wide(a[:, ranks]) * factor[:, None]).swapaxes(1, 2))
                add_products(delta, first, factors, wide(b[:, :, ranks]))
            first += b.shape[1]


def wide(array: np.ndarray) -> np.ndarray:
    """float32, from float32 or bfloat16 as uint16; contiguous."""
    array = np.ascontiguousarray(array)
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def _sum(base: np.ndarray, delta: np.ndarray, out: np.ndarray) -> None:
    """`out = round(base + delta)`, layer by layer."""
    for layer in range(base.shape[0]):
        if base.dtype == np.float32:
            np.add(base[layer], delta[layer], out=out[layer])
        else:
            own, total = torch.from_numpy(base[layer]).view(torch.bfloat16), torch.from_numpy(delta[layer])
            torch.from_numpy(out[layer]).view(torch.bfloat16).copy_(own.float() + total)
