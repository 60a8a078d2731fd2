"""How many bytes of memory one decoded token reads, computed from the shapes on disk.

Decoding one row is bound by reading the weights, so that its time grows with these figures. Loads no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Cost:
    """Bytes that one step of one row reads.

    Attributes:
        weights: of the base; the input embedding counts only if it is the output layer too.
        gate: of A and B of the live anchors: rank times `D_in + D_out`, summed over the adapted modules.
        cache: of keys and values.
    """

    weights: int
    gate: int
    cache: int

    @property
    def overhead(self) -> float:
        """Bytes of the gate as a share of all other bytes."""
        return self.gate / (self.weights + self.cache)


def cost(base: Path, adapters: Sequence[Path], coefficients: Sequence[float], dtype: str, context: int) -> Cost:
    """The cost of one step under a mix.

    Args:
        adapters: folders in coefficient order; an adapter at zero costs nothing.
        context: number of tokens in the KV cache.
    """
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    weights = sum(
        math.prod(shape)
        for name, shape in shapes(base).items()
        if config.get("tie_word_embeddings") or not name.endswith("embed_tokens.weight")
    )
    gate = sum(
        sum(map(math.prod, shapes(folder).values()))
        for folder, coefficient in zip(adapters, coefficients, strict=False)
        if coefficient
    )
    heads = config["num_attention_heads"]
    width = (config.get("head_dim") or config["hidden_size"] // heads) * (config.get("num_key_value_heads") or heads)
    cache = 2 * config["num_hidden_layers"] * width * context
    size = BYTES[dtype]
    return Cost(weights * size, gate * size, cache * size)


def shapes(folder: Path) -> dict[str, list[int]]:
    """Shapes of all tensors in the safetensors files of a folder, by name."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            found |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return found
