"""A mix as two factors for each module, `delta = B A`: stacked, compressed to a rank, compared, rounded.

Computes with tensors on the CPU; knows nothing of files.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixer.desk import Desk
from mixer.errors import InvalidValue
from mixer.model.base import DTYPES
from mixer.values.mix import Mix


def joined(desk: Desk, mix: Mix) -> dict[str, tuple[Tensor, Tensor]]:
    """A `(R, D_in)` and B `(D_out, R)` by module, float32 on the CPU, in the model's order.

    Anchors with the coefficient 0 are left out; coefficients and scalings are inside B.

    Raises:
        UnknownName: the mix names an anchor that the desk does not have.
    """
    sides: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for adapter, coefficient in zip(desk.anchor_set.adapters, mix.coefficients(desk.anchors), strict=True):
        for module, part in adapter.parts.items() if coefficient else ():
            b = part.b.to("cpu", torch.float32) * (coefficient * part.scaling)
            sides.setdefault(module, []).append((part.a.to("cpu", torch.float32), b))
    return {
        name: (torch.cat([a for a, _ in sides[name]]), torch.cat([b for _, b in sides[name]], 1))
        for name, _ in desk.base_model.named_modules()
        if name in sides
    }


def compress(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """The closest factors to `b @ a` of at most this rank, and the sums of squared singular values: kept, and all.

    By QR of B `(D_out, R)` and of A transposed, and an SVD of the core `(R, R)`; the product `b @ a` is never computed.
    If the rank is at least R, A and B are returned unchanged.
    """
    if rank >= len(a):
        whole = float((b.double().T @ b.double() * (a.double() @ a.double().T)).sum())  # |B A|^2, by the trace
        return a, b, whole, whole
    left, core_b = torch.linalg.qr(b.double())
    right, core_a = torch.linalg.qr(a.double().T)
    u, sigma, v = torch.linalg.svd(core_b @ core_a.T)
    # Each side gets the root of each singular value, so that numbers of both fit into 16 bits.
    root = sigma[:rank].sqrt()
    small_b = left @ (u[:, : len(root)] * root)
    small_a = (root[:, None] * v[: len(root)]) @ right.T
    return small_a, small_b, float(sigma[:rank].square().sum()), float(sigma.square().sum())


def difference(a: Tensor, b: Tensor, small_a: Tensor, small_b: Tensor) -> tuple[float, float]:
    """Spectral and Frobenius norm of `b @ a - small_b @ small_a`, from a small core as in `compress`."""
    if torch.equal(a, small_a.float()) and torch.equal(b, small_b.float()):
        return 0.0, 0.0
    core_b = torch.linalg.qr(torch.cat([b.double(), -small_b.double()], 1), "r").R
    core_a = torch.linalg.qr(torch.cat([a.double(), small_a.double()]).T, "r").R
    sigma = torch.linalg.svdvals(core_b @ core_a.T)
    return float(sigma[0]), float(sigma.norm())


def file_dtype(dtype: str) -> torch.dtype:
    """The dtype of this name.

    Raises:
        InvalidValue: files have no such dtype.
    """
    if dtype not in DTYPES:
        raise InvalidValue(f"There is no dtype {str(dtype)[:40]!r} for a file.", f"Choose {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in the file's dtype.

    Raises:
        InvalidValue: a number in it is too large for this dtype.
    """
    result = tensor.to(dtype).contiguous()
    if bool((torch.isfinite(tensor) & ~torch.isfinite(result)).any()):
        raise InvalidValue(
            f"{name} holds numbers too large for {str(dtype).removeprefix('torch.')}.",
            "Choose bfloat16 or float32, or smaller coefficients.",
        )
    return result
