"""The gate: the coefficients of all rows, which a slider move rewrites. Knows ranks alone; no model and no adapter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch


class Gate:
    """The live coefficients of all rows, `(rows, R)` float32 in host memory.

    Args:
        ranks: width of each anchor's slot, `(K,)`.
        rows: how many; none is in use yet.

    Attributes:
        values: what A's outputs are multiplied by: a row's coefficients minus the folded ones, each repeated over its
            anchor's slot; zeros in rows that are not in use.
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
        """Set one row's coefficients, `(K,)`; only slots that change are rewritten. None puts the row out of use."""
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
        """The columns that any of these rows has a value in, ascending int64; other columns are not computed."""
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
