"""Random models of every shape that the compiled backend runs, with adapters, and what they compute in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from mixer.adapters.low_rank import LowRank

VOCAB = 260  # like every size here, no multiple of 64
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 256,
}
WIDE: dict[str, Any] = SHAPE | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 80}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=6, tie_word_embeddings=True),
    "wide": LlamaConfig(**WIDE),
    "qwen": Qwen2Config(**SHAPE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=3, head_dim=64),
    "mistral": MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=8),
}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make_model(kind: str | PretrainedConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """A random causal LM with random biases and norms, and with large logits, so that differences show."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind] if isinstance(kind, str) else kind))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4)
            else:
                weight.add_(0.3 * torch.randn(weight.shape))
    return model.to(dtype).eval()


def random_parts(
    model: PreTrainedModel, anchors: int, targets: Sequence[str] = TARGETS, seed: int = 1
) -> list[dict[str, LowRank]]:
    """The parts of so many anchors, of ranks 1, 2, 3, ..., each with its own scaling."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: LowRank(
                torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5,
                torch.randn(module.out_features, rank, generator=generator) / 4,
                1.5 / rank,
            )
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.endswith(tuple(targets))
        }
        for rank in range(1, anchors + 1)
    ]


def merged(
    model: PreTrainedModel, adapters: Sequence[Mapping[str, LowRank]], coefficients: Sequence[float]
) -> PreTrainedModel:
    """Plain `transformers` with the mix in its weights, in float64."""
    result = copy.deepcopy(model).double()
    with torch.no_grad():
        for parts, coefficient in zip(adapters, coefficients, strict=True):
            for name, part in parts.items():
                weight = result.get_submodule(name).weight
                assert isinstance(weight, Tensor)
                weight += coefficient * part.scaling * (part.b.double() @ part.a.double())
    return result


@torch.inference_mode()
def plain_logits(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Next-token logits after every token, `(T, V)`, by one uncached pass."""
    return model(torch.tensor([list(ids)]), use_cache=False).logits[0]
