"""A Llama-shaped model in the layout that `step` computes with: packed weights, adapters, cache and gates.

Knows tensors, no tokenizer, no disk, no sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixer.adapters.low_rank import LowRank, ranks_of
from mixer.kernels import layout
from mixer.kernels.forward import run
from mixer.kernels.simd import LANES, WIDTH
from mixer.kernels.threads import ThreadTeam
from mixer.model.folding import WeightFolder, wide
from mixer.model.gate import Gate
from mixer.model.packing import MODULES, NEVER, adapters_of, angles, array, heads_of, small_parts, weights_of

FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}
ROTARY = {"default", "linear", "llama3", "yarn"}  # angles that depend on the position alone
CHUNK = 64  # tokens of one call; more are cut into several


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
    odd = {part for parts in adapters for part in parts if not part.endswith(tuple(names))}
    if odd:
        return f"an adapter on {min(odd)}"
    biased = {name for name, _ in lm.named_parameters() if name.endswith("_proj.bias")}
    if any(not name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")) for name in biased):
        return "biases outside attention"
    packed = sum(parameter.nbytes for parameter in lm.parameters())
    if packed > 0.5 * _free_memory():
        return "no memory for a second copy of the weights"
    return None


class CpuBackend:
    """Forward passes over tokens of any rows, each row under its own coefficients.

    Args:
        lm: the base model; its own weights stay as they are.
        adapters: each anchor's parts by module name, in coefficient order.
        rows: how many rows there may be.
        threads: how many threads compute; as many as torch uses if None.

    Attributes:
        gate, head_gate, heads, chunk, batch_exact, states: see `mixer.model.backend.Backend`.
        rows, columns: how many rows of how many tokens there is room for at present.
    """

    chunk = CHUNK
    batch_exact = True

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
        self._embedding = array(lm.get_input_embeddings().weight)
        self._weights = weights_of(lm)
        self._small_parts = small_parts(lm) | heads_of((), lm.config.hidden_size)
        self._ranks = ranks_of(adapters)
        self.gate, self.head_gate = Gate(self._ranks, rows), Gate([], rows)
        self.heads: Sequence[tuple[Tensor, Tensor]] = ()
        self._most_rows = rows
        self._lora = adapters_of(lm, adapters, self._ranks)
        ends = [0, *accumulate(self._ranks)]
        sums = 4 * sum(group.size for group in self._weights[:-1])
        self._folder = WeightFolder(self._weights, self._lora, list(pairwise(ends)), keep=sums < 0.25 * _free_memory())
        self._live_weights = self._weights
        self.threads = threads or torch.get_num_threads()
        self._team = ThreadTeam(self.threads, run)
        self.rows = self.columns = 0
        self.reserve(1, WIDTH)

    def reserve(self, rows: int, columns: int) -> None:
        """See `mixer.model.backend.Backend`."""
        if rows <= self.rows and columns <= self.columns:
            return
        # By doubling, so that what rows hold is seldom moved.
        rows, columns = max(_power(rows), self.rows), max(_power(columns), self.columns)
        shape, blocks = self._shape, columns // WIDTH
        panels = -(-shape.head_size // WIDTH)
        keys = np.zeros((self.layers, rows, shape.kv_heads, blocks, shape.head_size, WIDTH), np.float32)
        values = np.zeros((self.layers, rows, shape.kv_heads, panels, columns, WIDTH), np.float32)
        if self.rows:
            keys[:, : self.rows, :, : self.columns // WIDTH] = self._cache.keys
            values[:, : self.rows, :, :, : self.columns] = self._cache.values
        self.rows, self.columns = rows, columns
        self._cache = layout.KVCache(keys, values)
        self._make_room()

    def put_heads(self, heads: Sequence[tuple[Tensor, Tensor]]) -> None:
        """See `mixer.model.backend.Backend`."""
        self.heads = tuple(heads)
        self.head_gate = Gate([down.shape[0] for down, _ in heads], self._most_rows)
        self._small_parts |= heads_of(heads, self._embedding.shape[1])
        self._make_room()

    def forward(
        self,
        ids: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        slots: Sequence[int] | None = None,
    ) -> Tensor:
        """See `mixer.model.backend.Backend`; room for the tokens is made where it is lacking."""
        if not ids:
            self.states = torch.zeros(0, self._embedding.shape[1])
            return torch.zeros(0, self.vocab)
        slots = positions if slots is None else slots
        self.reserve(max(rows) + 1, max(slots) + 1)
        pieces = [
            self._piece(ids, rows, positions, slots, wanted, at) for at in range(0, len(ids), self._call.rows.size)
        ]
        if len(pieces) == 1:
            logits, self.states = pieces[0]
            return logits
        self.states = torch.cat([states for _, states in pieces])
        return torch.cat([logits for logits, _ in pieces])

    def snapshot(self, row: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `mixer.model.backend.Backend`: whole blocks of keys, the lanes in use of the next one, values."""
        whole, rest = divmod(length, WIDTH)
        keys, values = self._cache.keys[:, row], self._cache.values[:, row]
        last = keys[:, :, whole : whole + 1, :, :rest]  # most prompts are shorter than a block
        return keys[:, :, :whole].copy(), last.copy(), values[:, :, :, :length].copy()

    def restore(self, row: int, snapshot: tuple[np.ndarray, np.ndarray, np.ndarray], length: int) -> None:
        """See `mixer.model.backend.Backend`."""
        keys, last, values = snapshot
        whole, blocks = keys.shape[2], -(-length // WIDTH)
        self._cache.keys[:, row, :, : min(whole, blocks)] = keys[:, :, :blocks]
        if blocks > whole:
            self._cache.keys[:, row, :, whole, :, : last.shape[-1]] = last[:, :, 0]
        self._cache.values[:, row, :, :, :length] = values[:, :, :, :length]

    def clear(self) -> None:
        """See `mixer.model.backend.Backend`."""
        self.rows = self.columns = 0
        self.reserve(1, WIDTH)
        self._team.let_go()

    def fold(self, coefficients: tuple[float, ...]) -> None:
        """See `mixer.model.backend.Backend`."""
        self._live_weights = self._folder.fold(coefficients)
        self.gate.fold(coefficients)
        self._bind()

    # What follows builds the arrays.

    def _piece(self, ids, rows, positions, slots, wanted, at: int) -> tuple[Tensor, Tensor]:
        call, stop = self._call, min(len(ids), at + self._call.rows.size)
        count = stop - at
        own = [index - at for index in wanted if at <= index < stop]
        live, live_heads = self.gate.live(rows[at:stop]), self.head_gate.live(rows[at:stop])
        call.counts[:] = count, len(own), live.size, live_heads.size
        call.live[: live.size], call.live_heads[: live_heads.size] = live, live_heads
        call.rows[:count], call.positions[:count], call.slots[:count] = (
            rows[at:stop],
            positions[at:stop],
            slots[at:stop],
        )
        call.wanted[: len(own)] = own
        self._work.x[:count, : self._embedding.shape[1]] = wide(self._embedding[np.asarray(ids[at:stop])])
        self._team.run(self._arguments)
        results = (
            self._work.logits[: len(own), : self.vocab],
            self._work.hidden[0, : len(own)],
        )  # all parts have the same
        return torch.from_numpy(results[0].copy()), torch.from_numpy(results[1].copy())

    def _make_room(self) -> None:
        """Where the numbers of a call pass through."""
        tokens = CHUNK + self.rows
        self._call = layout.ForwardCall(
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
        self._small = layout.ModelConstants(**self._small_parts, **angles(self._lm, self.columns))
        self._work = self._buffers(tokens)
        self._bind()

    def _bind(self) -> None:
        weights, small, lora = self._live_weights, self._small, self._lora
        self._arguments = (weights, small, lora, self._cache, self._work, self._call, self._shape)

    def _buffers(self, tokens: int) -> layout.Workspace:
        shape, weights, small = self._shape, self._weights, self._small
        hidden = self._embedding.shape[1]
        parts = self.threads
        sizes = {
            "x": (tokens, weights.o.shape[1] * WIDTH),
            "normed": (parts, tokens, hidden),
            "qkv": (tokens, weights.qkv.shape[1] * WIDTH),
            "attended": (tokens, shape.heads * shape.head_size),
            "gate_up": (tokens, weights.gate_up.shape[1] * WIDTH),
            "active": (parts, tokens, shape.ff_size),
            "low": (3, tokens, sum(self._ranks)),
            "scores": (parts, self.columns),
            "head_out": (parts, -(-shape.head_size // WIDTH) * WIDTH),
            "hidden": (parts, tokens, hidden),
            "rewards_low": (parts, tokens, small.heads_down.shape[0]),
            "rewards_out": (parts, tokens, small.heads_up.shape[0] * WIDTH),
            "logits": (tokens, weights.head.shape[1] * WIDTH),
        }
        return layout.Workspace(**{name: np.zeros(size, np.float32) for name, size in sizes.items()})


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def _free_memory() -> int:
    """Bytes that could be taken now, with what files are cached in; plenty where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return NEVER
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), NEVER)
