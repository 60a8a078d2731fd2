"""Compiled code stays inside its arrays. Nothing checks its indices when it runs, so here arrays lie between fences.

A fence is filled with signaling NaNs. Code that writes to a fence changes its bits, even if it adds zero; code that
reads from one gets NaN as its result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from mixer.kernels.sampling import draw
from mixer.kernels.steering import find_likely, limit_to_budget, steer_row
from mixer.model.cpu_backend import CHUNK, CpuBackend
from mixer.model.folding import WeightFolder
from tests.kernels.parts import CONFIGS, SHAPE, VOCAB, make_model, random_parts

DEPTH = 1024  # bytes of a fence
FENCES = {2: 0x7FA1, 4: 0x7FA12345, 8: 0x7FF1234512345123}  # signaling NaNs, by bytes of an element
ROWS = 8
MIX = (0.7, -1.5, 0.3)
TWO_PANELS: dict[str, Any] = SHAPE | {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 5}
MODELS: dict[str, Any] = CONFIGS | {"two panels": LlamaConfig(**TWO_PANELS)}


class Fences:
    """Makes arrays with fences around them, and checks the fences."""

    def __init__(self) -> None:
        self._all: list[tuple[np.ndarray, int]] = []

    def around(self, array: np.ndarray) -> np.ndarray:
        """A copy of the array that lies between fences."""
        size = array.dtype.itemsize
        lead, kind = DEPTH // size, np.dtype(f"u{size}")
        whole = np.full(2 * lead + array.size, FENCES[size], kind)
        self._all.append((whole, lead))
        own = whole[lead : lead + array.size].view(array.dtype).reshape(array.shape)
        own[...] = array
        return own

    def around_all(self, arrays: Any) -> Any:
        """The same for all arrays in tuples and named tuples; other values stay as they are."""
        if isinstance(arrays, np.ndarray):
            return self.around(arrays)
        if not isinstance(arrays, tuple):
            return arrays
        own = [self.around_all(one) for one in arrays]
        return type(arrays)(*own) if hasattr(arrays, "_fields") else tuple(own)

    @property
    def stand(self) -> bool:
        """Whether no fence was written to."""
        return all(
            (part == FENCES[whole.dtype.itemsize]).all()
            for whole, lead in self._all
            for part in (whole[:lead], whole[whole.size - lead :])
        )


def fenced(backend: CpuBackend) -> Fences:
    """Put fences around all arrays that the compiled forward pass is given."""
    fences = Fences()
    backend.arrays = fences.around_all(backend.arrays)
    backend.gate.values = torch.from_numpy(backend.arrays.call.gates)
    backend.head_gate.values = torch.from_numpy(backend.arrays.call.head_gates)
    return fences


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_a_forward_pass_stays_inside_its_arrays(kind: str, threads: int):
    model = make_model(MODELS[kind])
    parts = random_parts(model, 3)
    backend = CpuBackend(model, parts, rows=ROWS, threads=threads)
    heads = [
        (torch.ones(rank, model.config.hidden_size) / 9, torch.ones(model.config.hidden_size, rank)) for rank in (3, 4)
    ]
    backend.put_heads(heads)
    backend.reserve(ROWS, 128)
    fences = fenced(backend)
    for row in range(ROWS):
        backend.gate[row], backend.head_gate[row] = MIX, (0.1, -0.2)
    full, got = CHUNK + ROWS, []
    ids = torch.randint(VOCAB, (full,), generator=torch.Generator().manual_seed(2)).tolist()
    got.append(backend.forward(ids, [ROWS - 1] * full, range(full), range(full)))  # as many tokens as fit in a call
    last = range(full, 128)
    got.append(backend.forward(ids[: len(last)], [ROWS - 1] * len(last), last, range(len(last))))
    for count in (1, 3, 5, ROWS):
        got.append(backend.forward(ids[:count], range(count), [0] * count, range(count)))
    assert fences.stand
    assert torch.isfinite(torch.cat(got)).all() and torch.isfinite(backend.states).all()
    alone = CpuBackend(model, parts, rows=1, threads=1)
    alone.put_heads(heads)
    alone.gate[0], alone.head_gate[0] = MIX, (0.1, -0.2)
    assert torch.equal(got[0], alone.forward(ids, [0] * full, range(full), range(full)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fold_stays_inside_its_arrays(dtype: torch.dtype):
    model = make_model(MODELS["two panels"], dtype)
    backend, fences = CpuBackend(model, random_parts(model, 3), rows=1, threads=1), Fences()
    weights, lora = fences.around_all(backend.arrays.weights), fences.around_all(backend.arrays.lora)
    folder = WeightFolder(weights, lora, [(0, 1), (1, 3), (3, 6)], keep=True)
    folder.fold(MIX)
    folder.deltas = {group: fences.around(delta) for group, delta in folder.deltas.items()}
    folder.folded = {group: fences.around(part) for group, part in folder.folded.items()}
    folded = folder.fold((0.1, 0.0, 2.0))
    assert fences.stand
    assert all(np.isfinite(part.view(np.float32)).all() for part in folded if part.dtype == np.float32)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 260])
@pytest.mark.parametrize("likely", ["all alike", "one alone", "random", "none a number"])
def test_a_draw_stays_inside_its_arrays(size: int, likely: str):
    rng, fences = np.random.default_rng(size), Fences()
    values = rng.normal(size=size).astype(np.float32)
    logits = {"all alike": 0 * values, "random": values, "none a number": values * np.float32(np.nan)}.get(
        likely, values
    )
    if likely == "one alone":
        logits = np.where(np.arange(size) == size // 2, np.float32(0), np.float32(-np.inf))
    cases = [(k, p, m) for k in (0, 1, size, 10_000_000) for p in (0.0, 0.9, 1.0) for m in (0.0, 0.5, 1.0)]
    rows = len(cases)
    top_k, top_p, min_p = (np.array(column) for column in zip(*cases, strict=True))
    for barred in (np.zeros(0, np.int64), np.array([size // 2]), np.arange(size)):
        tokens, logprobs = np.full(rows, -1, np.int64), np.zeros(rows)
        whole = (
            np.tile(logits, (rows, 1)),
            barred,
            np.arange(rows) % 2 == 0,
            np.arange(rows) % 5 == 0,
            np.full(rows, 0.7),
            top_k.astype(np.int64),
            top_p,
            min_p,
            rng.integers(0, 2**63, rows),
            tokens,
            logprobs,
        )
        own = [one if one.dtype == bool else fences.around(one) for one in whole]
        draw(*own)
        assert fences.stand
        assert ((own[-2] >= 0) & (own[-2] < size)).all()


@pytest.mark.parametrize("size", [1, 17, 63, 260])
@pytest.mark.parametrize("reach", [1, 7, 1000])
def test_steering_stays_inside_its_arrays(size: int, reach: int):
    rng, ranks, depth = np.random.default_rng(size), (16, 32), 48
    width, heads = sum(ranks), len(ranks)

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    for spread in (0.01, 1.0, 30.0):
        for apart in (False, True):
            for cut in (False, True):
                fences, most = Fences(), min(reach, size)
                logits, plain, origin = (fences.around(spread * floats(size)) for _ in range(3))
                tokens, logprobs = fences.around(np.zeros(most, np.int64)), fences.around(floats(most))
                count = find_likely(plain, 0.8, most, 1e-3, tokens, logprobs)
                assert 1 <= count <= most
                bias = fences.around(floats(count))
                after, _ = limit_to_budget(logits, origin, apart, 0.8, tokens[:count], logprobs[:count], bias, 0.3, cut)
                stack = fences.around_all(
                    (
                        floats(depth),
                        floats(width, depth),
                        floats(size, width),
                        floats(heads, depth),
                        np.array([(0, 16), (16, 48)]),
                        np.abs(rng.normal(size=(heads, 4))) + 0.1,
                        np.arange(heads),
                        np.array([1.0, -0.5]),
                        np.array([np.nan, 0.4]),
                        np.zeros(heads),
                    )
                )
                steered, nats = steer_row(logits, plain, origin, apart, 0.8, most, 1e-3, 0.3, cut, *stack)
                assert fences.stand
                assert not np.isnan(after).any() and not np.isnan(steered).any() and np.isfinite(nats)
