"""LoRA matrices: one adapter's on one module, and those of several adapters stacked. Knows no files, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """One adapter on one module: `delta = scaling * b @ a`, with a `(r, D_in)` and b `(D_out, r)`."""

    a: Tensor
    b: Tensor
    scaling: float


def ranks_of(adapters: Sequence[Mapping[str, LowRank]]) -> list[int]:
    """The width of each anchor's slot in stacked matrices, `(K,)`: its largest rank on any module."""
    return [max(part.a.shape[0] for part in parts.values()) for parts in adapters]


def stack_adapters(
    name: str, adapters: Sequence[Mapping[str, LowRank]], ranks: Sequence[int], d_in: int, d_out: int
) -> tuple[Tensor, Tensor]:
    """All anchors stacked on one module: A `(R, D_in)` and B `(D_out, R)`, float32, with the scaling inside B.

    Args:
        name: of the module. The slot of an anchor that does not adapt it, or has a smaller rank there, is filled up
            with zeros.
        ranks: width of each anchor's slot, `(K,)`.
    """
    a, b = torch.zeros(sum(ranks), d_in), torch.zeros(d_out, sum(ranks))
    for (start, _), parts in zip(pairwise(accumulate(ranks, initial=0)), adapters, strict=True):
        if part := parts.get(name):
            own = slice(start, start + part.a.shape[0])
            a[own], b[:, own] = part.a.float(), part.b.float() * part.scaling
    return a, b


def stack_pairs(pairs: Sequence[tuple[Tensor, Tensor]], size: int) -> tuple[Tensor, Tensor]:
    """Pairs of matrices `(r, D)` and `(D, r)`, stacked to one pair `(R, D)` and `(D, R)`, float32 on the CPU."""
    downs = [torch.zeros(0, size), *(down.detach().cpu().float() for down, _ in pairs)]
    ups = [torch.zeros(size, 0), *(up.detach().cpu().float() for _, up in pairs)]
    return torch.cat(downs), torch.cat(ups, dim=1)
