"""One forward pass of a Llama-shaped transformer over tokens of any rows, as one compiled function.

    x += O attention(rope(QK norm(x)), V norm(x)),   x += down(silu(gate norm(x)) * up norm(x))

with every product `W x + B (g * (A x))` for the live anchors alone. The work is a row of phases, each cut into parts that
the threads of a team take as they are free. Arrays are float32 but for the weights, which may be bfloat16 as uint16.

N tokens of a call, D hidden size, H heads, G key and value heads, E head size, F feed-forward size, R gate width,
C cache columns, T parts. Shapes of panels: see `lanes`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from mixer.native.lanes import WIDTH, append, dots, exp, product
from mixer.native.team import await_call, begin, current, finish, still, take, wait_until_done


class Weights(NamedTuple):
    """The base model's weights, or those with a mix folded in; all layers of a kind in one array, layer first."""

    qkv: Any  # (L, panels of Q, then K, then V, D, 64)
    o: Any  # (L, panels, H E, 64)
    gate_up: Any  # (L, panels of gate, then up, D, 64)
    down: Any  # (L, panels, F, 64)
    head: Any  # (1, panels, D, 64)


class Small(NamedTuple):
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


class Lora(NamedTuple):
    """All anchors' adapters, in the order Q, K, V; O; gate, up; down. An unadapted module has (L, 0, ...) arrays."""

    qkv_a: Any  # three of (L, R, D)
    qkv_b: Any  # three of (L, panels, R, 64)
    o_a: Any
    o_b: Any
    gate_up_a: Any
    gate_up_b: Any
    down_a: Any
    down_b: Any


class Cache(NamedTuple):
    """Keys with positions in the lanes, values with head dimensions in the lanes."""

    keys: Any  # (L, rows, G, C / 64, E, 64)
    values: Any  # (L, rows, G, E in panels, C, 64)


class Work(NamedTuple):
    """Where a call's numbers pass through."""

    x: Any  # (N, D)
    normed: Any  # (N, D)
    qkv: Any  # (N, width of qkv)
    attended: Any  # (N, H E)
    gate_up: Any  # (N, width of gate_up)
    active: Any  # (N, F)
    low: Any  # (3, N, R)
    scores: Any  # (T, C)
    head_out: Any  # (T, E in panels)
    hidden: Any  # (T, N, D)
    logits: Any  # (N, V in panels)


class Call(NamedTuple):
    """One call's tokens, in arrays that stay where they are from call to call."""

    counts: Any  # (3,) int64: tokens, wanted tokens, live ranks
    rows: Any  # (N,) int64: cache and gate row of each token
    positions: Any  # (N,) int64
    wanted: Any  # (N,) int64: which tokens' logits are wanted
    live: Any  # (R,) int64: gate columns that are not zero in every row, ascending
    gates: Any  # (rows, R): coefficients


class Shape(NamedTuple):
    """Sizes and constants."""

    heads: int
    kv_heads: int
    head_size: int
    ff_size: int
    eps: float


@njit(nogil=True, error_model="numpy")
def share(count, part, parts):
    """A part of range(count)."""
    return count * part // parts, count * (part + 1) // parts


@njit(nogil=True, error_model="numpy")
def rms_norm(x, weight, eps, out):
    """`out = weight * x / sqrt(mean(x^2) + eps)` for one token."""
    size = x.shape[0]
    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for i in range(0, size - 3, 4):
        a += x[i] * x[i]
        b += x[i + 1] * x[i + 1]
        c += x[i + 2] * x[i + 2]
        d += x[i + 3] * x[i + 3]
    for i in range(size - size % 4, size):
        a += x[i] * x[i]
    factor = np.float32(1.0 / math.sqrt((a + b + (c + d)) / size + eps))
    for i in range(size):
        out[i] = x[i] * factor * weight[i]


@njit(nogil=True, error_model="numpy")
def down_project(layer, x, a, low, call, part, parts):
    """`low[j] = g * (A_j x)` for the modules j that read the same x; a part of the ranks."""
    tokens, live = call.counts[0], call.counts[2]
    depth, width = x.shape[1], low.shape[2]
    start, stop = share(len(a) * live, part, parts)
    for i in range(start, stop):
        module, rank = i // live, call.live[i % live]
        of_module = a[module]
        if of_module.shape[1] == 0:
            continue
        to = module * low.shape[1] * width + rank
        at = (layer * of_module.shape[1] + rank) * depth
        dots(low, to, width, x, 0, depth, tokens, of_module, at, depth)
        for m in range(tokens):
            low[module, m, rank] *= call.gates[call.rows[m], rank]


@njit(nogil=True, error_model="numpy")
def up_project(layer, x, w, b, low, call, out, part, parts):
    """`out += W x + B low`, panel by panel; one part of the panels."""
    tokens, live = call.counts[0], call.counts[2]
    depth, width, ranks = x.shape[1], out.shape[1], low.shape[2]
    panels = w.shape[1]
    start, stop = share(panels, part, parts)
    for panel in range(start, stop):
        product(out, panel * WIDTH, width, x, 0, depth, tokens, w, (layer * panels + panel) * depth * WIDTH, depth)
        if live == 0:
            continue
        module, own = 0, panel
        while own >= b[module].shape[1]:
            own -= b[module].shape[1]
            module += 1
        of_module = b[module]
        if of_module.shape[2] == 0:
            continue
        at = (layer * of_module.shape[1] + own) * ranks * WIDTH
        source = module * low.shape[1] * ranks
        i = 0
        while i < live:  # neighboring live ranks in one walk
            first = call.live[i]
            last = first
            while i < live and call.live[i] == last:
                last += 1
                i += 1
            append(
                out,
                panel * WIDTH,
                width,
                low,
                source + first,
                ranks,
                tokens,
                of_module,
                at + first * WIDTH,
                last - first,
            )


@njit(nogil=True, error_model="numpy")
def rotate(vector, cos, sin):
    """Rotary embedding of one head, halves apart."""
    half = vector.shape[0] // 2
    for i in range(half):
        a, b = vector[i], vector[i + half]
        vector[i] = a * cos[i] - b * sin[i]
        vector[i + half] = b * cos[i + half] + a * sin[i + half]


@njit(nogil=True, error_model="numpy")
def place(layer, small, cache, call, work, shape, part, parts):
    """Rotate queries and keys, and write keys and values to the cache; one part of the heads."""
    size, heads, kv_heads = shape.head_size, shape.heads, shape.kv_heads
    normed = small.q_norm.shape[1] > 0
    per_token = heads + kv_heads
    keys_at = (heads * size + WIDTH - 1) // WIDTH * WIDTH
    values_at = keys_at + (kv_heads * size + WIDTH - 1) // WIDTH * WIDTH
    start, stop = share(call.counts[0] * per_token, part, parts)
    for i in range(start, stop):
        m, head = i // per_token, i % per_token
        position = call.positions[m]
        cos, sin = small.cos[position], small.sin[position]
        if head < heads:
            query = work.qkv[m, head * size : (head + 1) * size]
            if normed:
                rms_norm(query, small.q_norm[layer], shape.eps, query)
            rotate(query, cos, sin)
            continue
        head -= heads
        key = work.qkv[m, keys_at + head * size : keys_at + (head + 1) * size]
        if normed:
            rms_norm(key, small.k_norm[layer], shape.eps, key)
        rotate(key, cos, sin)
        block, lane = position // WIDTH, position % WIDTH
        keys, values = cache.keys[layer, call.rows[m], head, block], cache.values[layer, call.rows[m], head]
        for k in range(size):
            keys[k, lane] = key[k]
            values[k // WIDTH, position, k % WIDTH] = work.qkv[m, values_at + head * size + k]


@njit(nogil=True, error_model="numpy")
def attend(layer, small, cache, call, work, shape, part, parts):
    """Softmax attention of every token to its own row up to itself; one part of the heads."""
    size, heads, kv_heads = shape.head_size, shape.heads, shape.kv_heads
    _, rows, _, blocks, _, _ = cache.keys.shape
    columns = blocks * WIDTH
    panels = cache.values.shape[3]
    scale = np.float32(1.0 / math.sqrt(size))
    scores, out = work.scores[part], work.head_out[part]
    start, stop = share(call.counts[0] * heads, part, parts)
    for i in range(start, stop):
        m, head = i // heads, i % heads
        end = call.positions[m] + 1
        begin = max(0, end - small.windows[layer])
        row = (layer * rows + call.rows[m]) * kv_heads + head * kv_heads // heads
        for block in range(begin // WIDTH, (end + WIDTH - 1) // WIDTH):
            scores[block * WIDTH : (block + 1) * WIDTH] = 0
            key_at = (row * blocks + block) * size * WIDTH
            query_at = m * work.qkv.shape[1] + head * size
            at = part * work.scores.shape[1] + block * WIDTH
            product(work.scores, at, 0, work.qkv, query_at, 0, 1, cache.keys, key_at, size)
        most = np.float32(-np.inf)
        for p in range(begin, end):
            most = max(most, scores[p])
        for p in range(begin, end):
            scores[p] = exp((scores[p] - most) * scale)
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        fours = begin + (end - begin) // 4 * 4
        for p in range(begin, fours, 4):
            a += scores[p]
            b += scores[p + 1]
            c += scores[p + 2]
            d += scores[p + 3]
        for p in range(fours, end):
            a += scores[p]
        factor = np.float32(1) / (a + b + (c + d))
        out[:] = 0
        for panel in range(panels):
            value_at = ((row * panels + panel) * columns + begin) * WIDTH
            at = part * work.scores.shape[1] + begin
            to = part * work.head_out.shape[1] + panel * WIDTH
            product(work.head_out, to, 0, work.scores, at, 0, 1, cache.values, value_at, end - begin)
        for k in range(size):
            work.attended[m, head * size + k] = out[k] * factor


@njit(nogil=True, error_model="numpy")
def activate(work, tokens, ff_size, part, parts):
    """SwiGLU: `active = silu(gate) * up`; one part of the columns."""
    up_at = (ff_size + WIDTH - 1) // WIDTH * WIDTH
    start, stop = share(ff_size, part, parts)
    for m in range(tokens):
        gate, up = work.gate_up[m, start:stop], work.gate_up[m, up_at + start : up_at + stop]
        active = work.active[m, start:stop]
        for i in range(stop - start):
            active[i] = gate[i] / (np.float32(1) + exp(-gate[i])) * up[i]


@njit(nogil=True, error_model="numpy")
def normalize(tokens, x, weight, eps, out, part, parts):
    """RMS norm of a part of the tokens."""
    start, stop = share(tokens, part, parts)
    for m in range(start, stop):
        rms_norm(x[m], weight, eps, out[m])


@njit(nogil=True, error_model="numpy")
def clear(out, tokens, panels, part, parts):
    """Zeros in a part's panels of `out`."""
    start, stop = share(panels, part, parts)
    for m in range(tokens):
        out[m, start * WIDTH : stop * WIDTH] = 0


# The phases of a layer, in order; those that multiply by A are left out where no anchor is live.
NORM_1, QKV_A, QKV, PLACE, ATTEND, O_A, O, NORM_2, GATE_UP_A, GATE_UP, ACTIVATE, DOWN_A, DOWN = range(13)
PHASES = 13


@njit(nogil=True, error_model="numpy")
def parts_of(phase, tokens, live, parts):
    """How many parts a phase is cut into."""
    if phase in (NORM_1, NORM_2):
        return min(tokens, parts)
    if phase in (QKV_A, O_A, GATE_UP_A, DOWN_A) and live == 0:
        return 0
    return parts


@njit(nogil=True, error_model="numpy")
def compute(phase, layer, part, parts, weights, small, lora, cache, work, call, shape):
    """One part of one phase of a layer."""
    tokens = call.counts[0]
    if phase == NORM_1:
        normalize(tokens, work.x, small.attention_norm[layer], shape.eps, work.normed, part, parts)
    elif phase == QKV_A:
        down_project(layer, work.normed, lora.qkv_a, work.low, call, part, parts)
    elif phase == QKV:
        clear(work.qkv, tokens, weights.qkv.shape[1], part, parts)
        if small.bias.shape[1]:
            start, stop = share(weights.qkv.shape[1], part, parts)
            for m in range(tokens):
                work.qkv[m, start * WIDTH : stop * WIDTH] = small.bias[layer, start * WIDTH : stop * WIDTH]
        up_project(layer, work.normed, weights.qkv, lora.qkv_b, work.low, call, work.qkv, part, parts)
    elif phase == PLACE:
        place(layer, small, cache, call, work, shape, part, parts)
    elif phase == ATTEND:
        attend(layer, small, cache, call, work, shape, part, parts)
    elif phase == O_A:
        down_project(layer, work.attended, lora.o_a, work.low, call, part, parts)
    elif phase == O:
        up_project(layer, work.attended, weights.o, lora.o_b, work.low, call, work.x, part, parts)
    elif phase == NORM_2:
        normalize(tokens, work.x, small.mlp_norm[layer], shape.eps, work.normed, part, parts)
    elif phase == GATE_UP_A:
        down_project(layer, work.normed, lora.gate_up_a, work.low, call, part, parts)
    elif phase == GATE_UP:
        clear(work.gate_up, tokens, weights.gate_up.shape[1], part, parts)
        up_project(layer, work.normed, weights.gate_up, lora.gate_up_b, work.low, call, work.gate_up, part, parts)
    elif phase == ACTIVATE:
        activate(work, tokens, shape.ff_size, part, parts)
    elif phase == DOWN_A:
        down_project(layer, work.active, lora.down_a, work.low, call, part, parts)
    else:
        up_project(layer, work.active, weights.down, lora.down_b, work.low, call, work.x, part, parts)


@njit(nogil=True, error_model="numpy")
def read_out(weights, small, work, call, shape, wanted, part, parts):
    """Logits of the wanted tokens; a part of the vocabulary. Every part norms for itself: it is little."""
    hidden = work.hidden[part]
    for i in range(wanted):
        rms_norm(work.x[call.wanted[i]], small.final_norm, shape.eps, hidden[i])
    panels, depth = weights.head.shape[1:3]
    clear(work.logits, wanted, panels, part, parts)
    start, stop = share(panels, part, parts)
    for panel in range(start, stop):
        at = panel * depth * WIDTH
        source = part * work.hidden.shape[1] * depth
        product(work.logits, panel * WIDTH, panels * WIDTH, work.hidden, source, depth, wanted, weights.head, at, depth)


@njit(nogil=True, error_model="numpy")
def work_through(signals, first, tokens, wanted, live, weights, small, lora, cache, work, call, shape):
    """Take parts of a call that begins at part number `first` until none is left; the number after the last."""
    parts = work.scores.shape[0]
    for layer in range(weights.qkv.shape[0]):
        for phase in range(PHASES):
            count = parts_of(phase, tokens, live, parts)
            part = take(signals, first, count)
            while part >= 0:
                compute(phase, layer, part, count, weights, small, lora, cache, work, call, shape)
                finish(signals)
                part = take(signals, first, count)
            first += count
    part = take(signals, first, parts)
    while part >= 0:
        read_out(weights, small, work, call, shape, wanted, part, parts)
        finish(signals)
        part = take(signals, first, parts)
    return first + parts


@njit(nogil=True, error_model="numpy", cache=True)
def run(signals, helping, weights, small, lora, cache, work, call, shape):
    """Logits of the wanted tokens, from the embedded tokens in `work.x`, which it overwrites.

    Args:
        helping: False for the thread that makes the call; True for one that helps with calls as they come.
    """
    if helping:
        while await_call(signals):
            first, end = current(signals)
            tokens, wanted, live = call.counts
            if still(signals, end):  # so the counts read are of this very call
                work_through(signals, first, tokens, wanted, live, weights, small, lora, cache, work, call, shape)
        return
    tokens, wanted, live = call.counts
    parts = work.scores.shape[0]
    total = parts
    for phase in range(PHASES):
        total += weights.qkv.shape[0] * parts_of(phase, tokens, live, parts)
    first = begin(signals, total)
    end = work_through(signals, first, tokens, wanted, live, weights, small, lora, cache, work, call, shape)
    wait_until_done(signals, end)
