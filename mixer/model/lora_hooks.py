"""LoRA adapters as forward hooks on a `transformers` model. A gate weighs all of them, for each batch row apart.

    y = W0 x + B (g * (A x))        A (R, D_in), B (D_out, R), g (B, R), R = sum of the anchors' ranks

A slider move rewrites entries of g and nothing else. W0 is never written, rows are independent, and the base keeps its
modules, names and weights. Knows no coefficients by name, no rows in flight, no KV cache.

Source: arXiv 2404.07117, equation 3, with the sum taken over activations instead of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mixer.adapters.low_rank import LowRank, ranks_of, stack_adapters


class LoRAHooks:
    """All anchors on all adapted modules of one model.

    The matrices of all anchors are stacked: one A and one B a module.

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
            a, b = stack_adapters(name, adapters, self.ranks, d_in, d_out)
            # Where accelerate spreads a model over several devices, A and B lie where their module does.
            device = next(module.parameters()).device
            module.register_forward_hook(self._hook(a.T.to(device, dtype), b.T.to(device, dtype)))

    @contextmanager
    def applied(self, gate: Tensor | None):
        """Forward passes inside run with this gate `(B, R)`, B rows of the batch; None is the base model."""
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
            # Some models flatten rows and positions before their MLP; the number of gate rows separates them again.
            x = args[0].reshape(gate.shape[0], -1, a_t.shape[0])
            delta = ((x.to(a_t.dtype) @ a_t) * gate.to(a_t.device).unsqueeze(1)) @ b_t
            return output + delta.view(output.shape).to(output.dtype)

        return add_delta
