"""The arrays that a forward pass works on, their shapes, and the words of all kernels. Knows no computation.

    panel   64 neighboring outputs of a matrix, stored side by side: `(panels, depth, 64)`, padded with zeros
    lane    the place of one number in a SIMD register (16 lanes) or in a panel (64 lanes); each lane has its own sum
    row     a text in flight: a row of the KV cache and of the gates
    phase   a step of a layer that needs all of the step before it, such as the product with Q, K and V
    part    a share of a phase that one thread computes; threads take parts as they are free
    live    of a gate's columns: not zero in some row of the call; other columns are not computed

Sizes: L layers, N tokens of a call, D hidden size, H heads, G key and value heads, E head size, F feed-forward size, R
width of the gate, S width of the reward heads' gate, C columns of the KV cache, T parts of a phase, V vocabulary.
Arrays are float32; weights and adapters may be bfloat16, stored as uint16.
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
    """The model's other numbers: biases, norms, rotary angles, windows, and the reward heads."""

    bias: Any  # (L, width of qkv), or (L, 0)
    attention_norm: Any  # (L, D)
    mlp_norm: Any  # (L, D)
    final_norm: Any  # (D,)
    q_norm: Any  # (L, E), or (L, 0)
    k_norm: Any  # (L, E), or (L, 0)
    windows: Any  # (L,) int64: how many positions a token attends to, itself included
    cos: Any  # (C, E)
    sin: Any  # (C, E)
    heads_down: Any  # (S, D): reward heads side by side
    heads_up: Any  # (panels of D, S, 64)


class LoraArrays(NamedTuple):
    """All anchors' adapters, stacked. A field has one array a module; a module without adapters has `(L, 0, ...)`."""

    qkv_a: Any  # three of (L, R, D), for Q, K, V
    qkv_b: Any  # three of (L, panels, R, 64)
    o_a: Any
    o_b: Any
    gate_up_a: Any
    gate_up_b: Any
    down_a: Any
    down_b: Any


class KVCache(NamedTuple):
    """Keys have positions in the lanes, values have the head's dimensions in the lanes."""

    keys: Any  # (L, rows, G, C / 64, E, 64)
    values: Any  # (L, rows, G, E in panels, C, 64)


class Workspace(NamedTuple):
    """Intermediate results of a call. Arrays that `up_project` writes to are as wide as whole panels."""

    x: Any  # (N, D in panels)
    normed: Any  # (T, N, D)
    qkv: Any  # (N, width of qkv)
    attended: Any  # (N, H E)
    gate_up: Any  # (N, width of gate_up)
    active: Any  # (T, N, F)
    low: Any  # (3, N, R): outputs of A
    scores: Any  # (T, C): attention scores
    head_out: Any  # (T, E in panels)
    hidden: Any  # (T, N, D): final states
    rewards_low: Any  # (T, N, S)
    rewards_out: Any  # (T, N, D in panels)
    logits: Any  # (N, V in panels)


class ForwardCall(NamedTuple):
    """One call's tokens, in arrays that are written anew for each call."""

    counts: Any  # (4,) int64: tokens, wanted tokens, live ranks of adapters and of heads
    rows: Any  # (N,) int64: the row of each token
    positions: Any  # (N,) int64
    slots: Any  # (N,) int64: cache column of each token, its position or later
    wanted: Any  # (N,) int64: the tokens whose logits are wanted
    live: Any  # (R,) int64: the live columns of `gates`, ascending
    gates: Any  # (rows, R): coefficients
    live_heads: Any  # (S,) int64: the live columns of `head_gates`, ascending
    head_gates: Any  # (rows, S): strengths


class ModelShape(NamedTuple):
    """Sizes, and the epsilon of the norms."""

    heads: int
    kv_heads: int
    head_size: int
    ff_size: int
    eps: float


class ForwardArrays(NamedTuple):
    """All that `mixer.kernels.forward.run` is given, in its order."""

    weights: Weights
    constants: ModelConstants
    lora: LoraArrays
    cache: KVCache
    work: Workspace
    call: ForwardCall
    shape: ModelShape
