"""A Llama-shaped model's numbers as the arrays of `mixer.kernels.layout`: weights in panels, norms, angles, adapters.

Reads modules by their names; computes nothing with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixer.adapters.low_rank import LowRank, stack_adapters, stack_pairs
from mixer.kernels import layout
from mixer.kernels.simd import PANEL

MODULES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
NO_WINDOW = 2**62  # positions


def weights_of(lm: Any) -> layout.Weights:
    """The matrices of the layers and of the output, in the model's dtype."""

    def group(names: Sequence[str]) -> np.ndarray:
        return _layers(
            lm.config.num_hidden_layers,
            lambda layer: np.concatenate([panels(_module(lm, layer, name).weight) for name in names]),
        )

    groups = {name: group(names) for name, names in MODULES.items()}
    return layout.Weights(**groups, head=panels(lm.get_output_embeddings().weight)[None])


def constants_of(lm: Any) -> dict[str, np.ndarray]:
    """The fields of `layout.ModelConstants`, except angles and heads."""
    config, count = lm.config, lm.config.num_hidden_layers
    layers = [lm.get_submodule(f"model.layers.{layer}") for layer in range(count)]

    def norms(find) -> np.ndarray:
        return np.stack([_floats(find(layer).weight) for layer in layers])

    attention = [layer.self_attn for layer in layers]
    none = np.zeros((count, 0), np.float32)
    bias = none
    if attention[0].q_proj.bias is not None:
        parts = [[panels(getattr(a, f"{n}_proj").bias[:, None].float()) for n in "qkv"] for a in attention]
        bias = np.stack([np.concatenate(part).reshape(-1) for part in parts])
    has_norm = hasattr(attention[0], "q_norm")
    # As in the models' own code: Llama has no windows, Mistral has one in all layers, Qwen has it by layer.
    kinds = {"llama": ["full_attention"] * count, "mistral": ["sliding_attention"] * count}.get(
        config.model_type, getattr(config, "layer_types", None) or ["full_attention"] * count
    )
    window = getattr(config, "sliding_window", None) or NO_WINDOW
    return {
        "bias": bias,
        "attention_norm": norms(lambda layer: layer.input_layernorm),
        "mlp_norm": norms(lambda layer: layer.post_attention_layernorm),
        "final_norm": _floats(lm.model.norm.weight),
        "q_norm": norms(lambda layer: layer.self_attn.q_norm) if has_norm else none,
        "k_norm": norms(lambda layer: layer.self_attn.k_norm) if has_norm else none,
        "windows": np.array([window if kind == "sliding_attention" else NO_WINDOW for kind in kinds], np.int64),
    }


@torch.inference_mode()
def angles(lm: Any, columns: int) -> dict[str, np.ndarray]:
    """Cosines and sines of the rotary embedding, of the first `columns` positions."""
    cos, sin = lm.model.rotary_emb(torch.zeros(1), torch.arange(columns)[None])
    return {"cos": _floats(cos[0]), "sin": _floats(sin[0])}


def adapters_of(lm: Any, adapters: Sequence[Mapping[str, LowRank]], ranks: Sequence[int]) -> layout.LoraArrays:
    """All anchors' adapters, side by side."""
    # They are read for every token: as bfloat16 they are half as many bytes, where that rounds nothing.
    all_parts = [part for parts in adapters for part in parts.values()]
    lossless = all(_fits(part.a.float()) and _fits(part.b.float() * part.scaling) for part in all_parts)
    dtype = torch.bfloat16 if lm.dtype == torch.bfloat16 or lossless else torch.float32
    stacks: dict[str, tuple[np.ndarray, ...]] = {}
    for group, names in MODULES.items():
        pairs = [_stack_module(lm, name, adapters, ranks, dtype) for name in names]
        stacks[f"{group}_a"] = tuple(a for a, _ in pairs)
        stacks[f"{group}_b"] = tuple(b for _, b in pairs)
    return layout.LoraArrays(**stacks)


def heads_of(heads: Sequence[tuple[Tensor, Tensor]], size: int) -> dict[str, np.ndarray]:
    """All reward heads, `(r, D)` and `(D, r)` each, side by side in float32."""
    down, up = stack_pairs(heads, size)
    return {"heads_down": as_array(down), "heads_up": panels(up)}


def as_array(tensor: Tensor) -> np.ndarray:
    """A float32 tensor as an array, or a bfloat16 one as uint16; contiguous tensors on the CPU are not copied."""
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def panels(weight: Tensor) -> np.ndarray:
    """`(D_out, depth)` as `(panels, depth, 64)`, with zeros after the last output."""
    outputs, depth = weight.shape
    count = -(-outputs // PANEL)
    padded = nn.functional.pad(weight.detach(), (0, 0, 0, count * PANEL - outputs))
    return as_array(padded.view(count, PANEL, depth).transpose(1, 2).contiguous())


def _module(lm: Any, layer: int, name: str) -> nn.Linear:
    return lm.get_submodule(f"model.layers.{layer}.{name}")


def _stack_module(
    lm: Any, name: str, adapters: Sequence[Mapping[str, LowRank]], ranks: Sequence[int], dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """A `(L, R, D_in)` and B in panels `(L, panels, R, 64)`, scaling inside B; R is 0 where no anchor adapts it."""
    module = _module(lm, 0, name)
    full_names = [f"model.layers.{layer}.{name}" for layer in range(lm.config.num_hidden_layers)]
    adapted = any(full_name in parts for parts in adapters for full_name in full_names)
    used, own_ranks = (adapters, ranks) if adapted else ([], [])
    all_a, all_b = [], []
    for full_name in full_names:
        a, b = stack_adapters(full_name, used, own_ranks, module.in_features, module.out_features)
        all_a.append(as_array(a.to(dtype)))
        all_b.append(panels(b.to(dtype)))
    return np.stack(all_a), np.stack(all_b)


def _layers(count: int, of_layer: Callable[[int], np.ndarray]) -> np.ndarray:
    """An array that every layer has, of all layers in one; never twice in memory."""
    first = of_layer(0)
    result = np.empty((count, *first.shape), first.dtype)
    result[0] = first
    for layer in range(1, count):
        result[layer] = of_layer(layer)
    return result


def _fits(tensor: Tensor) -> bool:
    """Whether bfloat16 holds these float32 numbers without rounding."""
    return bool((tensor.bfloat16().float() == tensor).all())


def _floats(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().contiguous().numpy()
