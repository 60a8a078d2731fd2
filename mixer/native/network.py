"""A Llama-shaped model in the layout that `step` computes with: packed weights, adapters, cache and gates.

Knows tensors and module names, no tokenizer, no disk, no sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixer.lora import Gate, LowRank, ranks_of, stacked
from mixer.native import layout
from mixer.native.fold import Folder, wide
from mixer.native.lanes import LANES, WIDTH
from mixer.native.step import run
from mixer.native.team import Team

FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}
ROTARY = {"default", "linear", "llama3", "yarn"}  # angles that depend on the position alone
MODULES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
CHUNK = 64  # tokens of one call; more are cut into several
NEVER = 2**62


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


class NativeNetwork:
    """Forward passes over tokens of any rows, each row under its own coefficients.

    Args:
        lm: the base model; its own weights stay as they are.
        adapters: each anchor's parts by module name, in coefficient order.
        rows: how many rows there may be.
        threads: how many threads compute; as many as torch uses if None.

    Attributes:
        gate, chunk, batch_exact, states: see `mixer.network.Network`.
        rows, columns: how many rows of how many tokens there is room for at present.
    """

    chunk = CHUNK
    batch_exact = True

    def __init__(
        self, lm: Any, adapters: Sequence[Mapping[str, LowRank]], rows: int, threads: int | None = None
    ) -> None:
        config = lm.config
        self._lm, self._half = lm, lm.dtype == torch.bfloat16
        self.layers, self.vocab = config.num_hidden_layers, lm.get_output_embeddings().weight.shape[0]
        self._shape = layout.Shape(
            config.num_attention_heads,
            config.num_key_value_heads,
            _head_size(config),
            config.intermediate_size,
            float(config.rms_norm_eps),
        )
        self._embedding = _array(lm.get_input_embeddings().weight)
        groups = {group: self._packed(names) for group, names in MODULES.items()}
        self._weights = layout.Weights(**groups, head=_panels(lm.get_output_embeddings().weight)[None])
        self._small_parts = self._read_small()
        self._ranks = ranks_of(adapters)
        self.gate = Gate(self._ranks, rows)
        self._lora = self._stacked(adapters)
        ends = [0, *accumulate(self._ranks)]
        sums = 4 * sum(array.size for array in self._weights[:-1])
        self._folder = Folder(self._weights, self._lora, list(pairwise(ends)), keep=sums < 0.25 * _free_memory())
        self._live_weights = self._weights
        self.threads = threads or torch.get_num_threads()
        self._team = Team(self.threads, run)
        self.rows = self.columns = 0
        self.reserve(1, WIDTH)

    def reserve(self, rows: int, columns: int) -> None:
        """See `mixer.network.Network`."""
        if rows <= self.rows and columns <= self.columns:
            return
        # By doubling, so that what rows hold is seldom moved.
        rows, columns = max(_power(rows), self.rows), max(_power(columns), self.columns)
        shape, blocks = self._shape, columns // WIDTH
        panels = -(-shape.head_size // WIDTH)
        keys = np.zeros((self.layers, rows, shape.kv_heads, blocks, shape.head_size, WIDTH), np.float32)
        values = np.zeros((self.layers, rows, shape.kv_heads, panels, columns, WIDTH), np.float32)
        tokens = CHUNK + rows
        if self.rows:
            keys[:, : self.rows, :, : self.columns // WIDTH] = self._cache.keys
            values[:, : self.rows, :, :, : self.columns] = self._cache.values
        self.rows, self.columns = rows, columns
        self._cache = layout.Cache(keys, values)
        self._call = layout.Call(
            counts=np.zeros(3, np.int64),
            rows=np.zeros(tokens, np.int64),
            positions=np.zeros(tokens, np.int64),
            wanted=np.zeros(tokens, np.int64),
            live=np.zeros(sum(self._ranks), np.int64),
            gates=self.gate.values.numpy(),
        )
        self._work = self._buffers(tokens, columns)
        self._small = self._with_angles(columns)
        self._bind()

    def forward(
        self, ids: Sequence[int], rows: Sequence[int], positions: Sequence[int], wanted: Sequence[int]
    ) -> Tensor:
        """See `mixer.network.Network`; room for the tokens is made where it is lacking."""
        if not ids:
            self.states = torch.zeros(0, self._embedding.shape[1])
            return torch.zeros(0, self.vocab)
        self.reserve(max(rows) + 1, max(positions) + 1)
        pieces = [self._piece(ids, rows, positions, wanted, at) for at in range(0, len(ids), self._call.rows.size)]
        if len(pieces) == 1:
            logits, self.states = pieces[0]
            return logits
        self.states = torch.cat([states for _, states in pieces])
        return torch.cat([logits for logits, _ in pieces])

    def snapshot(self, row: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """See `mixer.network.Network`."""
        blocks = -(-length // WIDTH)
        return self._cache.keys[:, row, :, :blocks].copy(), self._cache.values[:, row, :, :, :length].copy()

    def restore(self, row: int, snapshot: tuple[np.ndarray, np.ndarray], length: int) -> None:
        """See `mixer.network.Network`."""
        keys, values = snapshot
        blocks = -(-length // WIDTH)
        self._cache.keys[:, row, :, :blocks] = keys[:, :, :blocks]
        self._cache.values[:, row, :, :, :length] = values[:, :, :, :length]

    def clear(self) -> None:
        """See `mixer.network.Network`."""
        self.rows = self.columns = 0
        self.reserve(1, WIDTH)
        self._team.let_go()

    def fold(self, coefficients: tuple[float, ...]) -> None:
        """See `mixer.network.Network`."""
        self._live_weights = self._folder.fold(coefficients)
        self.gate.fold(coefficients)
        self._bind()

    # What follows builds the arrays.

    def _piece(self, ids, rows, positions, wanted, at: int) -> tuple[Tensor, Tensor]:
        call, stop = self._call, min(len(ids), at + self._call.rows.size)
        count = stop - at
        own = [index - at for index in wanted if at <= index < stop]
        live = self.gate.live(rows[at:stop])
        call.counts[:] = count, len(own), live.size
        call.live[: live.size] = live
        call.rows[:count], call.positions[:count] = rows[at:stop], positions[at:stop]
        call.wanted[: len(own)] = own
        self._work.x[:count] = wide(self._embedding[np.asarray(ids[at:stop])])
        self._team.run(self._arguments)
        results = (
            self._work.logits[: len(own), : self.vocab],
            self._work.hidden[0, : len(own)],
        )  # all parts have the same
        return torch.from_numpy(results[0].copy()), torch.from_numpy(results[1].copy())

    def _bind(self) -> None:
        weights, small, lora = self._live_weights, self._small, self._lora
        self._arguments = (weights, small, lora, self._cache, self._work, self._call, self._shape)

    def _module(self, layer: int, name: str) -> nn.Linear:
        return self._lm.get_submodule(f"model.layers.{layer}.{name}")

    def _packed(self, names: Sequence[str]) -> np.ndarray:
        return _layers(
            self.layers,
            lambda layer: np.concatenate([_panels(self._module(layer, name).weight) for name in names]),
        )

    def _read_small(self) -> dict[str, np.ndarray]:
        layers = [self._lm.get_submodule(f"model.layers.{layer}") for layer in range(self.layers)]

        def norms(find) -> np.ndarray:
            return np.stack([_floats(find(layer).weight) for layer in layers])

        attention = [layer.self_attn for layer in layers]
        bias = np.zeros((self.layers, 0), np.float32)
        if attention[0].q_proj.bias is not None:
            parts = [[_panels(getattr(a, f"{n}_proj").bias[:, None].float()) for n in "qkv"] for a in attention]
            bias = np.stack([np.concatenate(part).reshape(-1) for part in parts])
        none = np.zeros((self.layers, 0), np.float32)
        has_norm = hasattr(attention[0], "q_norm")
        config = self._lm.config
        # As the models' own code has it: Llama has no windows, Mistral has one for all layers, Qwen tells them apart.
        kinds = {"llama": ["full_attention"] * self.layers, "mistral": ["sliding_attention"] * self.layers}.get(
            config.model_type, getattr(config, "layer_types", None) or ["full_attention"] * self.layers
        )
        window = getattr(config, "sliding_window", None) or NEVER
        return {
            "bias": bias,
            "attention_norm": norms(lambda layer: layer.input_layernorm),
            "mlp_norm": norms(lambda layer: layer.post_attention_layernorm),
            "final_norm": _floats(self._lm.model.norm.weight),
            "q_norm": norms(lambda layer: layer.self_attn.q_norm) if has_norm else none,
            "k_norm": norms(lambda layer: layer.self_attn.k_norm) if has_norm else none,
            "windows": np.array([window if kind == "sliding_attention" else NEVER for kind in kinds], np.int64),
        }

    @torch.inference_mode()
    def _with_angles(self, columns: int) -> layout.Small:
        cos, sin = self._lm.model.rotary_emb(torch.zeros(1), torch.arange(columns)[None])
        return layout.Small(**self._small_parts, cos=_floats(cos[0]), sin=_floats(sin[0]))

    def _stacked(self, adapters: Sequence[Mapping[str, LowRank]]) -> layout.Lora:
        # Half the bytes for what is read anew for every token, where bfloat16 holds the very same numbers.
        whole = [part for parts in adapters for part in parts.values()]
        lossless = all(_fits(part.a.float()) and _fits(part.b.float() * part.scaling) for part in whole)
        dtype = torch.bfloat16 if self._half or lossless else torch.float32
        stacks: dict[str, tuple[np.ndarray, ...]] = {}
        for group, names in MODULES.items():
            pairs = [self._stack_module(name, adapters, dtype) for name in names]
            stacks[f"{group}_a"] = tuple(a for a, _ in pairs)
            stacks[f"{group}_b"] = tuple(b for _, b in pairs)
        return layout.Lora(**stacks)

    def _stack_module(
        self, name: str, adapters: Sequence[Mapping[str, LowRank]], dtype: torch.dtype
    ) -> tuple[np.ndarray, np.ndarray]:
        """A `(L, R, D_in)` and B in panels `(L, panels, R, 64)`, scaling inside B; R is 0 where nobody adapts it."""
        module = self._module(0, name)
        full_names = [f"model.layers.{layer}.{name}" for layer in range(self.layers)]
        adapted = any(full_name in parts for parts in adapters for full_name in full_names)
        used, ranks = (adapters, self._ranks) if adapted else ([], [])
        all_a, all_b = [], []
        for full_name in full_names:
            a, b = stacked(full_name, used, ranks, module.in_features, module.out_features)
            all_a.append(_array(a.to(dtype)))
            all_b.append(_panels(b.to(dtype)))
        return np.stack(all_a), np.stack(all_b)

    def _buffers(self, tokens: int, columns: int) -> layout.Work:
        shape, weights = self._shape, self._weights
        hidden = self._embedding.shape[1]
        parts = self.threads
        sizes = {
            "x": (tokens, hidden),
            "normed": (parts, tokens, hidden),
            "qkv": (tokens, weights.qkv.shape[1] * WIDTH),
            "attended": (tokens, shape.heads * shape.head_size),
            "gate_up": (tokens, weights.gate_up.shape[1] * WIDTH),
            "active": (parts, tokens, shape.ff_size),
            "low": (3, tokens, sum(self._ranks)),
            "scores": (parts, columns),
            "head_out": (parts, -(-shape.head_size // WIDTH) * WIDTH),
            "hidden": (parts, tokens, hidden),
            "logits": (tokens, weights.head.shape[1] * WIDTH),
        }
        return layout.Work(**{name: np.zeros(size, np.float32) for name, size in sizes.items()})


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _layers(count: int, of_layer: Callable[[int], np.ndarray]) -> np.ndarray:
    """What every layer has, in one array; never twice in memory."""
    first = of_layer(0)
    result = np.empty((count, *first.shape), first.dtype)
    result[0] = first
    for layer in range(1, count):
        result[layer] = of_layer(layer)
    return result


def _fits(tensor: Tensor) -> bool:
    """Whether bfloat16 holds these float32 numbers without rounding."""
    return bool((tensor.bfloat16().float() == tensor).all())


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def _array(tensor: Tensor) -> np.ndarray:
    """A float32 array, or bfloat16 as uint16; without a copy where memory allows."""
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _floats(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().contiguous().numpy()


def _panels(weight: Tensor) -> np.ndarray:
    """`(D_out, depth)` as `(panels, depth, 64)`, with zeros after the last output."""
    outputs, depth = weight.shape
    panels = -(-outputs // WIDTH)
    padded = nn.functional.pad(weight.detach(), (0, 0, 0, panels * WIDTH - outputs))
    return _array(padded.view(panels, WIDTH, depth).transpose(1, 2).contiguous())


def _free_memory() -> int:
    """Bytes that could be taken now, with what files are cached in; plenty where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return NEVER
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), NEVER)
