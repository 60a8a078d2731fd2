"""The parts of a transformer layer, each on its share of the work: norm, projections with adapters, attention, SwiGLU.

Every function takes `part` of `parts`, and is called once for each. Shapes: see `layout`.
"""

from __future__ import annotations

import math

import numpy as np

from mixer.kernels.simd import STRETCH, WIDTH, append, dots, exp, inner, product, stretch


@inner
def share(count, part, parts):
    """A part of range(count)."""
    return count * part // parts, count * (part + 1) // parts


@inner
def rms_norm(x, weight, eps, out):
    """`out = weight * x / sqrt(mean(x^2) + eps)` for one token; what lies in `x` after the weight's size is padding."""
    size = weight.shape[0]
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


@inner
def down_project(layer, x, a, low, call, part, parts):
    """`low[j] = g * (A_j x)` for the modules j that read the same x; a part of the ranks."""
    tokens, live = call.counts[0], call.counts[2]
    depth, width = x.shape[1], low.shape[2]
    i, stop = share(len(a) * live, part, parts)
    while i < stop:
        module, first = i // live, call.live[i % live]
        last = first
        while i < stop and i // live == module and call.live[i % live] == last:  # neighbors together
            last += 1
            i += 1
        of_module = a[module]
        if of_module.shape[1] == 0:
            continue
        to = module * low.shape[1] * width + first
        at = (layer * of_module.shape[1] + first) * depth
        dots(low, to, width, x, 0, depth, tokens, of_module, at, depth, last - first)
        for m in range(tokens):
            own, gate = low[module, m, first:last], call.gates[call.rows[m], first:last]
            for k in range(last - first):
                own[k] *= gate[k]


@inner
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


@inner
def rotate(vector, cos, sin):
    """Rotary embedding of one head, halves apart."""
    half = vector.shape[0] // 2
    for i in range(half):
        a, b = vector[i], vector[i + half]
        vector[i] = a * cos[i] - b * sin[i]
        vector[i + half] = b * cos[i + half] + a * sin[i + half]


@inner
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
        slot = call.slots[m]
        block, lane = slot // WIDTH, slot % WIDTH
        keys, values = cache.keys[layer, call.rows[m], head, block], cache.values[layer, call.rows[m], head]
        value = work.qkv[m, values_at + head * size : values_at + (head + 1) * size]
        for k in range(size):
            keys[k, lane] = key[k]
        for panel in range(values.shape[0]):
            part_of_value, to = value[panel * WIDTH : (panel + 1) * WIDTH], values[panel, slot]
            for k in range(part_of_value.size):
                to[k] = part_of_value[k]


@inner
def attend(layer, small, cache, call, work, shape, part, parts):
    """Softmax attention of every token to what stands before it in its row, and to itself; one part of the heads.

    What lies between a token's position and its slot it does not see. The sums are those of a token in its place.
    """
    size, heads, kv_heads = shape.head_size, shape.heads, shape.kv_heads
    _, rows, _, blocks, _, _ = cache.keys.shape
    columns = blocks * WIDTH
    panels = cache.values.shape[3]
    scale = np.float32(1.0 / math.sqrt(size))
    scores, out = work.scores[part], work.head_out[part]
    start, stop = share(call.counts[0] * heads, part, parts)
    for i in range(start, stop):
        m, head = i // heads, i % heads
        position, slot = call.positions[m], call.slots[m]
        end = position + 1
        begin = max(0, end - small.windows[layer])
        row = (layer * rows + call.rows[m]) * kv_heads + head * kv_heads // heads
        for block in range(begin // WIDTH, slot // WIDTH + 1):
            scores[block * WIDTH : (block + 1) * WIDTH] = 0
            key_at = (row * blocks + block) * size * WIDTH
            query_at = m * work.qkv.shape[1] + head * size
            at = part * work.scores.shape[1] + block * WIDTH
            product(work.scores, at, 0, work.qkv, query_at, 0, 1, cache.keys, key_at, size)
        scores[position] = scores[slot]
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
        own = scores[position]
        scores[position:slot] = 0
        scores[slot] = own
        whole = (position - begin) // STRETCH * STRETCH
        out[:] = 0
        for panel in range(panels):
            value_at = ((row * panels + panel) * columns + begin) * WIDTH
            at = part * work.scores.shape[1] + begin
            to = part * work.head_out.shape[1] + panel * WIDTH
            product(work.head_out, to, 0, work.scores, at, 0, 1, cache.values, value_at, whole)
            last = value_at + whole * WIDTH
            stretch(work.head_out, to, work.scores, at + whole, cache.values, last, slot + 1 - begin - whole)
        attended = work.attended[m, head * size : (head + 1) * size]
        for k in range(size):
            attended[k] = out[k] * factor


@inner
def activate(gate_up, tokens, ff_size, out, part, parts):
    """SwiGLU: `out = silu(gate) * up`; one part of the columns."""
    up_at = (ff_size + WIDTH - 1) // WIDTH * WIDTH
    start, stop = share(ff_size, part, parts)
    for m in range(tokens):
        gate, up, own = gate_up[m, start:stop], gate_up[m, up_at + start : up_at + stop], out[m, start:stop]
        for i in range(stop - start):
            own[i] = gate[i] / (np.float32(1) + exp(-gate[i])) * up[i]


@inner
def add_head_shifts(hidden, small, call, low, out):
    """`out = h + up (s * (down h))` for the states of the wanted tokens, s the strengths of a token's row."""
    wanted, live = call.counts[1], call.counts[3]
    depth, width, ranks = hidden.shape[1], out.shape[1], low.shape[1]
    for i in range(wanted):
        out[i, :depth] = hidden[i]
    k = 0
    while k < live:  # neighboring live ranks in one walk
        first = call.live_heads[k]
        last = first
        while k < live and call.live_heads[k] == last:
            last += 1
            k += 1
        dots(low, first, ranks, hidden, 0, depth, wanted, small.heads_down, first * depth, depth, last - first)
        for i in range(wanted):
            own, strength = low[i, first:last], call.head_gates[call.rows[call.wanted[i]], first:last]
            for j in range(last - first):
                own[j] *= strength[j]
        for panel in range(small.heads_up.shape[0]):
            at = (panel * ranks + first) * WIDTH
            append(out, panel * WIDTH, width, low, first, ranks, wanted, small.heads_up, at, last - first)
