"""A GGUF file as it lies on disk: its metadata, and its tensors by name, mapped and not copied.

The `gguf` package reads files too, and takes seconds for the two hundred thousand strings of a vocabulary; this reader
takes them from the bytes at once. Undoing a quantization is left to the package. Knows no architecture.

Source: the format's specification, github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, where the file does not say
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor as it is stored.

    Attributes:
        shape: as numpy and torch have it, the longest stride first.
        kind: the name of its type, such as `Q4_1`.
        blocks: its bytes, `(bytes,)` uint8, mapped from the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    blocks: np.ndarray

    def numbers(self) -> np.ndarray:
        """Its numbers in float32, which holds those of every type exactly."""
        if self.kind in ("F32", "F16", "F64"):
            return (
                self.blocks.view({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[self.kind])
                .astype("<f4")
                .reshape(self.shape)
            )
        rows = self.blocks.reshape(*self.shape[:-1], -1)
        return dequantize(rows, gguf.GGMLQuantizationType[self.kind]).reshape(self.shape)


class _Reader:
    """Values from the bytes of a file, one after another."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        kind = struct.Struct(f"<{count}{code}")
        found = kind.unpack_from(self.data, self.at)
        self.at += kind.size
        return found

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def string(self) -> str:
        size = self.number("Q")
        if size > len(self.data) - self.at:
            raise ValueError("a string is longer than the file")
        self.at += size
        return str(self.data[self.at - size : self.at], "utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != ARRAY or depth:
            raise ValueError(f"a value has the unknown type {kind}")
        kind, count = self.number("I"), self.number("Q")
        if count > len(self.data):
            raise ValueError("a list is longer than the file")
        if kind in SCALARS:
            return list(self.numbers(SCALARS[kind], count))
        return [self.value(kind, depth + 1) for _ in range(count)]


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """The metadata by key, and the tensors by name.

    Raises:
        OSError: the file cannot be read. ValueError, struct.error: it is no GGUF file, cut off, or of another version.
    """
    data = np.memmap(path, np.uint8, mode="r")
    reader = _Reader(memoryview(data))  # type: ignore[arg-type]
    if bytes(reader.numbers("B", 4)) != MAGIC:
        raise ValueError("it does not begin as a GGUF file does")
    version, count, keys = reader.numbers("I", 1)[0], reader.number("Q"), reader.number("Q")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, and {' or '.join(map(str, VERSIONS))} can be read")
    metadata = {}
    for _ in range(keys):
        key = reader.string()
        metadata[key] = reader.value(reader.number("I"))
    entries = [_entry(reader) for _ in range(count)]
    alignment = int(metadata.get("general.alignment", ALIGNMENT))
    start = -(-reader.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in entries:
        try:
            known = gguf.GGMLQuantizationType(kind)
        except ValueError:
            raise ValueError(f"the tensor {name} has the unknown type {kind}") from None
        per_block, block = gguf.GGML_QUANT_SIZES[known]
        first, size = start + offset, math.prod(shape) // per_block * block
        if shape[-1] % per_block or first + size > len(data):
            raise ValueError(f"the tensor {name} is cut off")
        tensors[name] = GGUFTensor(name, shape, known.name, data[first : first + size])
    return metadata, tensors


def _entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name, dimensions = reader.string(), reader.number("I")
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise ValueError(f"the tensor {name} has {dimensions} dimensions")
    shape = tuple(reversed(reader.numbers("Q", dimensions)))
    return name, shape, reader.number("I"), reader.number("Q")
