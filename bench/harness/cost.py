"""What the bytes say: how much memory one decoded token reads, from the shapes on disk alone.

Decoding one row is bound by reading weights; where it is, time grows as these figures do. Loads no torch.
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
        weights: the base's; its input embedding only where it is the output layer too.
        gate: A and B of the live anchors, `R S` numbers, S the sum of `D_in + D_out` over the modules they adapt.
        cache: keys and values.
    """

    weights: int
    gate: int
    cache: int

    @property
    def overhead(self) -> float:
        """How much more a step reads for the gate, as a share of what it reads without."""
        return self.gate / (self.weights + self.cache)


def cost(base: Path, adapters: Sequence[Path], coefficients: Sequence[float], dtype: str, context: int) -> Cost:
    """The cost of a step under a mix.

    Args:
        adapters: folders in coefficient order; those at zero cost nothing.
        context: tokens in the cache.
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
    """Shapes of all tensors in a folder's safetensors, from their headers."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            found |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return found
