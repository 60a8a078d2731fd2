"""The compiled backend for Llama-shaped models on a CPU: it holds the arrays of `mixer.kernels.forward`, and calls it.

The arrays are packed weights, adapters, KV cache and gates, see `mixer.kernels.layout`. Knows tensors, no tokenizer, no
disk, no sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from mixer.adapters.low_rank import LowRank, ranks_of
from mixer.kernels import layout
from mixer.kernels.forward import run
from mixer.kernels.simd import LANES, PANEL
from mixer.kernels.threads import ThreadTeam
from mixer.model.folding import WeightFolder, as_float32
from mixer.model.gate import Gate
from mixer.model.packing import MODULES, adapters_of, angles, as_array, constants_of, heads_of, weights_of

FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}
ROTARY = {"default", "linear", "llama3", "yarn"}  # angles that depend on the position alone
CHUNK = 64  # tokens of a prompt in one call of the kernel; `forward` cuts what is longer


def unsupported(lm: Any, adapters: Sequence[Mapping[str, LowRank]]) -> str | None:
    """Why a model with these adapters cannot run here; None where it can."""
    config = lm.config
    if config.model_type not in FAMILIES:
        return f"a {config.model_type} model"
    if lm.device.type != "cpu" or len({parameter.device for parameter in lm.parameters()}) > 1:
        return "not on the CPU"
    if lm.dtype not in (torch.float32, torch.bfloat16):
        return f"{str(lm.dtype).removeprefix('torch.')} on a CPU"
    if any(type(module) is not nn.Linear for name, module in lm.named_modules() if name.endswith("_proj")):
        return "quantized or replaced modules"
    if (config.rope_parameters or {}).get("rope_type", "default") not in ROTARY:
        return "rotary angles that depend on the length"
    if config.hidden_act != "silu":
        return f"the activation {config.hidden_act}"
    sizes = (config.hidden_size, config.num_attention_heads * _head_size(config), config.intermediate_size)
    if any(size % LANES for size in sizes):
        return f"sizes that are no multiples of {LANES}"
    names = [name for group in MODULES.values() for name in group]
    unknown = {module for parts in adapters for module in parts if not module.endswith(tuple(names))}
    if unknown:
        return f"an adapter on {min(unknown)}"
    biased = {name for name, _ in lm.named_parameters() if name.endswith("_proj.bias")}
    if any(not name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")) for name in biased):
        return "biases outside attention"
    if sum(parameter.nbytes for parameter in lm.parameters()) > 0.5 * psutil.virtual_memory().available:
        return "no memory for a second copy of the weights"
    return None


class CpuBackend:
    """Forward passes over tokens of any rows, each row under its own coefficients.

    A row's logits are the same bit for bit, whatever else a call holds.

    Args:
        lm: the base model; its own weights stay as they are, and are copied.
        adapters: each anchor's parts by module name, in coefficient order.
        rows: how many rows there may be.
        threads: how many threads compute; as many as torch uses if None.

    Attributes:
        gate, head_gate, heads, chunk, states: see `mixer.model.backend.Backend`.
        rows, columns: how many rows of how many tokens there is room for at present.
        arrays: what the kernel is given. Replaced where the cache grows, a mix is folded or heads change.
    """

    chunk = CHUNK

    def __init__(
        self, lm: Any, adapters: Sequence[Mapping[str, LowRank]], rows: int, threads: int | None = None
    ) -> None:
        config = lm.config
        self._lm = lm
        self.layers, self.vocab = config.num_hidden_layers, lm.get_output_embeddings().weight.shape[0]
        self._shape = layout.ModelShape(
            config.num_attention_heads,
            config.num_key_value_heads,
            _head_size(config),
            config.intermediate_size,
            float(config.rms_norm_eps),
        )
        self._embedding = as_array(lm.get_input_embeddings().weight)
        self._weights = weights_of(lm)
        self._constants = constants_of(lm) | heads_of((), lm.config.hidden_size)
        self._ranks = ranks_of(adapters)
        self.gate, self.head_gate = Gate(self._ranks, rows), Gate([], rows)
        self.heads: Sequence[tuple[Tensor, Tensor]] = ()
        self._most_rows = rows
        self._lora = adapters_of(lm, adapters, self._ranks)
        slots = list(pairwise([0, *accumulate(self._ranks)]))
        delta_bytes = 4 * sum(group.size for group in self._weights[:-1])
        keep = delta_bytes < 0.25 * psutil.virtual_memory().available
        self._folder = WeightFolder(self._weights, self._lora, slots, keep)
        self._live_weights = self._weights  # with the folded mix
        self.threads = threads or torch.get_num_threads()
        self._team = ThreadTeam(self.threads, run)
        self.rows = self.columns = 0
        self.reserve(1, PANEL)

    def reserve(self, rows: int, columns: int) -> None:
        """See `mixer.model.backend.Backend`."""
        if rows <= self.rows and columns <= self.columns:
            return
        # By doubling, so that the cache is seldom copied.
        rows, columns = max(_next_power_of_two(rows), self.rows), max(_next_power_of_two(columns), self.columns)
        shape, key_panels = self._shape, columns // PANEL
        value_panels = -(-shape.head_size // PANEL)
        keys = np.zeros((self.layers, rows, shape.kv_heads, key_panels, shape.head_size, PANEL), np.float32)
        values = np.zeros((self.layers, rows, shape.kv_heads, value_panels, columns, PANEL), np.float32)
        if self.rows:
            keys[:, : self.rows, :, : self.columns // PANEL] = self.arrays.cache.keys
            values[:, : self.rows, :, :, : self.columns] = self.arrays.cache.values
        self.rows, self.columns = rows, columns
        self._allocate(layout.KVCache(keys, values))

    def put_heads(self, heads: Sequence[tuple[Tensor, Tensor]]) -> None:
        """See `mixer.model.backend.Backend`."""
        self.heads = tuple(heads)
        self.head_gate = Gate([down.shape[0] for down, _ in heads], self._most_rows)
        self._constants |= heads_of(heads, self._embedding.shape[1])
        self._allocate(self.arrays.cache)

    def forward(
        self,
        ids: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        slots: Sequence[int] | None = None,
    ) -> Tensor:
        """See `mixer.model.backend.Backend`; makes room for the tokens where there is none."""
        if not ids:
            self.states = torch.zeros(0, self._embedding.shape[1])
            return torch.zeros(0, self.vocab)
        slots = positions if slots is None else slots
        self.reserve(max(rows) + 1, max(slots) + 1)
        size = self.arrays.call.rows.size
        chunks = [self._run_chunk(ids, rows, positions, slots, wanted, at) for at in range(0, len(ids), size)]
        if len(chunks) == 1:
            logits, self.states = chunks[0]
            return logits
        self.states = torch.cat([states for _, states in chunks])
        return torch.cat([logits for logits, _ in chunks])

    def snapshot(self, row: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `mixer.model.backend.Backend`: whole panels of keys, the lanes in use of the next one, values."""
        whole, rest = divmod(length, PANEL)
        keys, values = self.arrays.cache.keys[:, row], self.arrays.cache.values[:, row]
        last = keys[:, :, whole : whole + 1, :, :rest]  # most prompts are shorter than a panel
        return keys[:, :, :whole].copy(), last.copy(), values[:, :, :, :length].copy()

    def restore(self, row: int, snapshot: tuple[np.ndarray, np.ndarray, np.ndarray], length: int) -> None:
        """See `mixer.model.backend.Backend`."""
        (keys, last, values), cache = snapshot, self.arrays.cache
        whole, panels = keys.shape[2], -(-length // PANEL)
        cache.keys[:, row, :, : min(whole, panels)] = keys[:, :, :panels]
        if panels > whole:
            cache.keys[:, row, :, whole, :, : last.shape[-1]] = last[:, :, 0]
        cache.values[:, row, :, :, :length] = values[:, :, :, :length]

    def clear(self) -> None:
        """See `mixer.model.backend.Backend`."""
        self.rows = self.columns = 0
        self.reserve(1, PANEL)
        self._team.release()

    def fold(self, coefficients: tuple[float, ...]) -> None:
        """See `mixer.model.backend.Backend`."""
        self._live_weights = self._folder.fold(coefficients)
        self.gate.fold(coefficients)
        self.arrays = self.arrays._replace(weights=self._live_weights)

    def _run_chunk(self, ids, rows, positions, slots, wanted, at: int) -> tuple[Tensor, Tensor]:
        """Logits and final states of the wanted tokens among those from index `at` on, as many as fit in one call."""
        call, work = self.arrays.call, self.arrays.work
        stop = min(len(ids), at + call.rows.size)
        count = stop - at
        own = [index - at for index in wanted if at <= index < stop]
        live, live_heads = self.gate.live(rows[at:stop]), self.head_gate.live(rows[at:stop])
        call.counts[:] = count, len(own), live.size, live_heads.size
        call.live[: live.size], call.live_heads[: live_heads.size] = live, live_heads
        call.rows[:count] = rows[at:stop]
        call.positions[:count] = positions[at:stop]
        call.slots[:count] = slots[at:stop]
        call.wanted[: len(own)] = own
        work.x[:count, : self._embedding.shape[1]] = as_float32(self._embedding[np.asarray(ids[at:stop])])
        self._team.run(self.arrays)
        logits, states = work.logits[: len(own), : self.vocab], work.hidden[0, : len(own)]  # alike in all parts
        return torch.from_numpy(logits.copy()), torch.from_numpy(states.copy())

    def _allocate(self, cache: layout.KVCache) -> None:
        """Make the arrays of a call anew, for a cache of `self.rows` rows and `self.columns` columns."""
        tokens = CHUNK + self.rows
        call = layout.ForwardCall(
            counts=np.zeros(4, np.int64),
            rows=np.zeros(tokens, np.int64),
            positions=np.zeros(tokens, np.int64),
            slots=np.zeros(tokens, np.int64),
            wanted=np.zeros(tokens, np.int64),
            live=np.zeros(sum(self._ranks), np.int64),
            gates=self.gate.values.numpy(),
            live_heads=np.zeros(self.head_gate.values.shape[1], np.int64),
            head_gates=self.head_gate.values.numpy(),
        )
        constants = layout.ModelConstants(**self._constants, **angles(self._lm, self.columns))
        work = self._workspace(tokens, constants)
        self.arrays = layout.ForwardArrays(self._live_weights, constants, self._lora, cache, work, call, self._shape)

    def _workspace(self, tokens: int, constants: layout.ModelConstants) -> layout.Workspace:
        """Room for a call of so many tokens."""
        shape, weights, parts = self._shape, self._weights, self.threads
        hidden = self._embedding.shape[1]
        sizes = {
            "x": (tokens, weights.o.shape[1] * PANEL),
            "normed": (parts, tokens, hidden),
            "qkv": (tokens, weights.qkv.shape[1] * PANEL),
            "attended": (tokens, shape.heads * shape.head_size),
            "gate_up": (tokens, weights.gate_up.shape[1] * PANEL),
            "active": (parts, tokens, shape.ff_size),
            "low": (3, tokens, sum(self._ranks)),
            "scores": (parts, self.columns),
            "head_out": (parts, -(-shape.head_size // PANEL) * PANEL),
            "hidden": (parts, tokens, hidden),
            "rewards_low": (parts, tokens, constants.heads_down.shape[0]),
            "rewards_out": (parts, tokens, constants.heads_up.shape[0] * PANEL),
            "logits": (tokens, weights.head.shape[1] * PANEL),
        }
        return layout.Workspace(**{name: np.zeros(size, np.float32) for name, size in sizes.items()})


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _next_power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
