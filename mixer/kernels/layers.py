"""The phases of a transformer layer: norm, projections with adapters, rotary embedding, attention, SwiGLU.

A function with the arguments `part, parts` computes one part of a phase, and is called once for every part. Words and
shapes: see `layout`.
"""

from __future__ import annotations

import math

import numpy as np

from mixer.kernels.simd import PANEL, STRETCH, accumulate, dots, exp, inner, last_stretch, product


@inner
def span(count, part, parts):
    """Start and stop of a part of range(count)."""
    return count * part // parts, count * (part + 1) // parts


@inner
def rms_norm(x, weight, eps, out):
    """`out = weight * x / sqrt(mean(x^2) + eps)` for one token; `x` may be longer than the weight, by padding."""
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
    """`low[j] = g * (A_j x)` for the modules j that have the same input x; a part of the live ranks."""
    tokens, live = call.counts[0], call.counts[2]
    depth, width = x.shape[1], low.shape[2]
    i, stop = span(len(a) * live, part, parts)
    while i < stop:
        module, first = i // live, call.live[i % live]
        last = first
        while i < stop and i // live == module and call.live[i % live] == last:  # neighboring ranks together
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
    """`out += W x + B low`; a part of the panels."""
    tokens, live = call.counts[0], call.counts[2]
    depth, width, ranks = x.shape[1], out.shape[1], low.shape[2]
    panels = w.shape[1]
    start, stop = span(panels, part, parts)
    for panel in range(start, stop):
        product(out, panel * PANEL, width, x, 0, depth, tokens, w, (layer * panels + panel) * depth * PANEL, depth)
        if live == 0:
            continue
        module, own = 0, panel
        while own >= b[module].shape[1]:
            own -= b[module].shape[1]
            module += 1
        of_module = b[module]
        if of_module.shape[2] == 0:
            continue
        at = (layer * of_module.shape[1] + own) * ranks * PANEL
        source = module * low.shape[1] * ranks
        i = 0
        while i < live:  # neighboring live ranks together
            first = call.live[i]
            last = first
            while i < live and call.live[i] == last:
                last += 1
                i += 1
            accumulate(
                out,
                panel * PANEL,
                width,
                low,
                source + first,
                ranks,
                tokens,
                of_module,
                at + first * PANEL,
                last - first,
            )


@inner
def rotate(vector, cos, sin):
    """Rotary embedding of one head in place; a pair is a number and the one half a head further."""
    half = vector.shape[0] // 2
    for i in range(half):
        a, b = vector[i], vector[i + half]
        vector[i] = a * cos[i] - b * sin[i]
        vector[i + half] = b * cos[i + half] + a * sin[i + half]


@inner
def rotate_and_cache(layer, constants, cache, call, work, shape, part, parts):
    """Rotate queries and keys, and write keys and values to the KV cache; a part of the heads."""
    size, heads, kv_heads = shape.head_size, shape.heads, shape.kv_heads
    normed = constants.q_norm.shape[1] > 0
    per_token = heads + kv_heads
    keys_at = (heads * size + PANEL - 1) // PANEL * PANEL
    values_at = keys_at + (kv_heads * size + PANEL - 1) // PANEL * PANEL
    start, stop = span(call.counts[0] * per_token, part, parts)
    for i in range(start, stop):
        m, head = i // per_token, i % per_token
        position = call.positions[m]
        cos, sin = constants.cos[position], constants.sin[position]
        if head < heads:
            query = work.qkv[m, head * size : (head + 1) * size]
            if normed:
                rms_norm(query, constants.q_norm[layer], shape.eps, query)
            rotate(query, cos, sin)
            continue
        head -= heads
        key = work.qkv[m, keys_at + head * size : keys_at + (head + 1) * size]
        if normed:
            rms_norm(key, constants.k_norm[layer], shape.eps, key)
        rotate(key, cos, sin)
        slot = call.slots[m]
        key_panel, lane = slot // PANEL, slot % PANEL
        keys, values = cache.keys[layer, call.rows[m], head, key_panel], cache.values[layer, call.rows[m], head]
        value = work.qkv[m, values_at + head * size : values_at + (head + 1) * size]
        for k in range(size):
            keys[k, lane] = key[k]
        for panel in range(values.shape[0]):
            source, to = value[panel * PANEL : (panel + 1) * PANEL], values[panel, slot]
            for k in range(source.size):
                to[k] = source[k]


@inner
def attend(layer, constants, cache, call, work, shape, part, parts):
    """Softmax attention of every token to itself and to the tokens before it in its row; a part of the heads.

    A token does not attend to slots between its position and its own slot. Its sums are the same, bit for bit, as those
    of a token whose slot is its position.
    """
    size, heads, kv_heads = shape.head_size, shape.heads, shape.kv_heads
    _, rows, _, key_panels, _, _ = cache.keys.shape
    columns = key_panels * PANEL
    value_panels = cache.values.shape[3]
    scale = np.float32(1.0 / math.sqrt(size))
    scores, out = work.scores[part], work.head_out[part]
    start, stop = span(call.counts[0] * heads, part, parts)
    for i in range(start, stop):
        m, head = i // heads, i % heads
        position, slot = call.positions[m], call.slots[m]
        end = position + 1
        begin = max(0, end - constants.windows[layer])
        row = (layer * rows + call.rows[m]) * kv_heads + head * kv_heads // heads
        for panel in range(begin // PANEL, slot // PANEL + 1):
            scores[panel * PANEL : (panel + 1) * PANEL] = 0
            key_at = (row * key_panels + panel) * size * PANEL
            query_at = m * work.qkv.shape[1] + head * size
            at = part * work.scores.shape[1] + panel * PANEL
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
        for panel in range(value_panels):
            value_at = ((row * value_panels + panel) * columns + begin) * PANEL
            at = part * work.scores.shape[1] + begin
            to = part * work.head_out.shape[1] + panel * PANEL
            product(work.head_out, to, 0, work.scores, at, 0, 1, cache.values, value_at, whole)
            last = value_at + whole * PANEL
            last_stretch(work.head_out, to, work.scores, at + whole, cache.values, last, slot + 1 - begin - whole)
        attended = work.attended[m, head * size : (head + 1) * size]
        for k in range(size):
            attended[k] = out[k] * factor


@inner
def activate(gate_up, tokens, ff_size, out, part, parts):
    """SwiGLU: `out = silu(gate) * up`; a part of the columns."""
    up_at = (ff_size + PANEL - 1) // PANEL * PANEL
    start, stop = span(ff_size, part, parts)
    for m in range(tokens):
        gate, up, own = gate_up[m, start:stop], gate_up[m, up_at + start : up_at + stop], out[m, start:stop]
        for i in range(stop - start):
            own[i] = gate[i] / (np.float32(1) + exp(-gate[i])) * up[i]


@inner
def add_head_shifts(hidden, constants, call, low, out):
    """`out = h + up (s * (down h))` for the final states h of the wanted tokens; s are their rows' strengths."""
    wanted, live = call.counts[1], call.counts[3]
    depth, width, ranks = hidden.shape[1], out.shape[1], low.shape[1]
    for i in range(wanted):
        out[i, :depth] = hidden[i]
    k = 0
    while k < live:  # neighboring live ranks together
        first = call.live_heads[k]
        last = first
        while k < live and call.live_heads[k] == last:
            last += 1
            k += 1
        dots(low, first, ranks, hidden, 0, depth, wanted, constants.heads_down, first * depth, depth, last - first)
        for i in range(wanted):
            own, strength = low[i, first:last], call.head_gates[call.rows[call.wanted[i]], first:last]
            for j in range(last - first):
                own[j] *= strength[j]
        for panel in range(constants.heads_up.shape[0]):
            at = (panel * ranks + first) * PANEL
            accumulate(out, panel * PANEL, width, low, first, ranks, wanted, constants.heads_up, at, last - first)
