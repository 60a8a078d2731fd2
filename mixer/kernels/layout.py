"""The arrays that a forward pass works on, and their shapes. Knows nothing of what is done with them.

Arrays are float32 but for weights, adapters and caches, which may be bfloat16 as uint16. L layers, N tokens of a call,
D hidden size, H heads, G key and value heads, E head size, F feed-forward size, R gate width, S reward heads' width, C cache
columns, T parts of a phase, V vocabulary. Panels are 64 wide, see `lanes`.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Weights(NamedTuple):
    """The base model's weights, or those with a mix folded in; all layers of a kind in one array, layer first."""

    qkv: Any  # (L, panels of Q, then K, then V, D, 64)
    o: Any  # (L, panels, H E, 64)
    gate_up: Any  # (L, panels of gate, then up, D, 64)
    down: Any  # (L, panels, F, 64)
    head: Any  # (1, panels, D, 64)


class ModelConstants(NamedTuple):
    """What else a model knows."""

    bias: Any  # (L, width of qkv), or (L, 0)
    attention_norm: Any  # (L, D)
    mlp_norm: Any  # (L, D)
    final_norm: Any  # (D,)
    q_norm: Any  # (L, E), or (L, 0)
    k_norm: Any  # (L, E), or (L, 0)
    windows: Any  # (L,) int64: how many positions a token sees, itself included
    cos: Any  # (C, E)
    sin: Any  # (C, E)
    heads_down: Any  # (S, D): reward heads side by side
    heads_up: Any  # (panels of D, S, 64)


class LoraArrays(NamedTuple):
    """All anchors' adapters, in the order Q, K, V; O; gate, up; down. An unadapted module has (L, 0, ...) arrays."""

    qkv_a: Any  # three of (L, R, D)
    qkv_b: Any  # three of (L, panels, R, 64)
    o_a: Any
    o_b: Any
    gate_up_a: Any
    gate_up_b: Any
    down_a: Any
    down_b: Any


class KVCache(NamedTuple):
    """Keys with positions in the lanes, values with head dimensions in the lanes."""

    keys: Any  # (L, rows, G, C / 64, E, 64)
    values: Any  # (L, rows, G, E in panels, C, 64)


class Workspace(NamedTuple):
    """Where a call's numbers pass through. What `up_project` writes to is in panels: it writes whole ones."""

    x: Any  # (N, D in panels)
    normed: Any  # (T, N, D)
    qkv: Any  # (N, width of qkv)
    attended: Any  # (N, H E)
    gate_up: Any  # (N, width of gate_up)
    active: Any  # (T, N, F)
    low: Any  # (3, N, R)
    scores: Any  # (T, C)
    head_out: Any  # (T, E in panels)
    hidden: Any  # (T, N, D)
    rewards_low: Any  # (T, N, S)
    rewards_out: Any  # (T, N, D in panels)
    logits: Any  # (N, V in panels)


class ForwardCall(NamedTuple):
    """One call's tokens, in arrays that stay where they are from call to call."""

    counts: Any  # (4,) int64: tokens, wanted tokens, live ranks of adapters and of heads
    rows: Any  # (N,) int64: cache and gate row of each token
    positions: Any  # (N,) int64
    slots: Any  # (N,) int64: cache column of each token, its position or later
    wanted: Any  # (N,) int64: which tokens' logits are wanted
    live: Any  # (R,) int64: gate columns that are not zero in every row, ascending
    gates: Any  # (rows, R): coefficients
    live_heads: Any  # (S,) int64: as `live`, of the heads
    head_gates: Any  # (rows, S): strengths


class ModelShape(NamedTuple):
    """Sizes and constants."""

    heads: int
    kv_heads: int
    head_size: int
    ff_size: int
    eps: float
