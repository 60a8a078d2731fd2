"""One forward pass of a Llama-shaped transformer over tokens of any rows, as one compiled function.

    x += O attention(rope(QK norm(x)), V norm(x)),   x += down(silu(gate norm(x)) * up norm(x))

Every product is `W x + B (g * (A x))`, of which the second term is computed for live anchors alone. Where reward heads
are live, the final state is `h + up (s * (down h))`. The work is a sequence of phases, each cut into parts; threads
take parts as they are free. Words and shapes: see `layout`.
"""

from __future__ import annotations

from mixer.kernels.layers import (
    activate,
    add_head_shifts,
    attend,
    down_project,
    rms_norm,
    rotate_and_cache,
    span,
    up_project,
)
from mixer.kernels.simd import PANEL, entry, inner, product
from mixer.kernels.threads import await_call, current_call, finish_part, is_open, open_call, take_part, wait_until_done


@inner
def normalize(tokens, x, weight, eps, out, part, parts):
    """RMS norm of a part of the tokens."""
    start, stop = span(tokens, part, parts)
    for m in range(start, stop):
        rms_norm(x[m], weight, eps, out[m])


@inner
def clear(out, tokens, panels, part, parts):
    """Zeros in a part's panels of `out`."""
    start, stop = span(panels, part, parts)
    for m in range(tokens):
        out[m, start * PANEL : stop * PANEL] = 0


# The phases of a layer, in order. Phases that multiply by A are left out where no anchor is live. With few tokens,
# norms and activation are no phases: every part computes them for itself, which is faster than waiting for other
# threads.
NORM_1, QKV_A, QKV, ROTATE, ATTEND, O_A, OUT, NORM_2, GATE_UP_A, GATE_UP, ACTIVATE, DOWN_A, DOWN = range(13)
PHASES = 13
FEW = 4


@inner
def count_parts(phase, tokens, live, parts):
    """How many parts a phase is cut into; 0 leaves it out."""
    if phase in (NORM_1, NORM_2, ACTIVATE) and tokens <= FEW:
        return 0
    if phase in (NORM_1, NORM_2):
        return min(tokens, parts)
    if phase in (QKV_A, O_A, GATE_UP_A, DOWN_A) and live == 0:
        return 0
    return parts


@inner
def compute(phase, layer, part, parts, weights, constants, lora, cache, work, call, shape):
    """One part of one phase of a layer."""
    tokens, live = call.counts[0], call.counts[2]
    few = tokens <= FEW  # then every part norms and activates all tokens, in the first phase that needs the result
    first, of, copy = (0, 1, part) if few else (part, parts, 0)
    normed, active = work.normed[copy], work.active[copy]
    if phase == NORM_1 or (few and phase == (QKV_A if live else QKV)):
        normalize(tokens, work.x, constants.attention_norm[layer], shape.eps, normed, first, of)
    elif phase == NORM_2 or (few and phase == (GATE_UP_A if live else GATE_UP)):
        normalize(tokens, work.x, constants.mlp_norm[layer], shape.eps, normed, first, of)
    elif phase == ACTIVATE or (few and phase == (DOWN_A if live else DOWN)):
        activate(work.gate_up, tokens, shape.ff_size, active, first, of)
    if phase == QKV_A:
        down_project(layer, normed, lora.qkv_a, work.low, call, part, parts)
    elif phase == QKV:
        clear(work.qkv, tokens, weights.qkv.shape[1], part, parts)
        if constants.bias.shape[1]:
            start, stop = span(weights.qkv.shape[1], part, parts)
            for m in range(tokens):
                work.qkv[m, start * PANEL : stop * PANEL] = constants.bias[layer, start * PANEL : stop * PANEL]
        up_project(layer, normed, weights.qkv, lora.qkv_b, work.low, call, work.qkv, part, parts)
    elif phase == ROTATE:
        rotate_and_cache(layer, constants, cache, call, work, shape, part, parts)
    elif phase == ATTEND:
        attend(layer, constants, cache, call, work, shape, part, parts)
    elif phase == O_A:
        down_project(layer, work.attended, lora.o_a, work.low, call, part, parts)
    elif phase == OUT:
        up_project(layer, work.attended, weights.o, lora.o_b, work.low, call, work.x, part, parts)
    elif phase == GATE_UP_A:
        down_project(layer, normed, lora.gate_up_a, work.low, call, part, parts)
    elif phase == GATE_UP:
        clear(work.gate_up, tokens, weights.gate_up.shape[1], part, parts)
        up_project(layer, normed, weights.gate_up, lora.gate_up_b, work.low, call, work.gate_up, part, parts)
    elif phase == DOWN_A:
        down_project(layer, active, lora.down_a, work.low, call, part, parts)
    elif phase == DOWN:
        up_project(layer, active, weights.down, lora.down_b, work.low, call, work.x, part, parts)


@inner
def output_logits(weights, constants, work, call, shape, wanted, part, parts):
    """Logits of the wanted tokens, of a part of the vocabulary. Every part norms all states itself: that is fast."""
    hidden = work.hidden[part]
    for i in range(wanted):
        rms_norm(work.x[call.wanted[i]], constants.final_norm, shape.eps, hidden[i])
    if call.counts[3]:
        add_head_shifts(hidden, constants, call, work.rewards_low[part], work.rewards_out[part])
        hidden = work.rewards_out[part]
    panels, depth = weights.head.shape[1:3]
    clear(work.logits, wanted, panels, part, parts)
    start, stop = span(panels, part, parts)
    for panel in range(start, stop):
        at, to = panel * depth * PANEL, panel * PANEL
        product(work.logits, to, panels * PANEL, hidden, 0, hidden.shape[1], wanted, weights.head, at, depth)


@inner
def run_parts(signals, first, tokens, wanted, live, weights, constants, lora, cache, work, call, shape):
    """Take parts of the call whose first part has the number `first` until none is left; the number after its last."""
    parts = work.scores.shape[0]
    for layer in range(weights.qkv.shape[0]):
        for phase in range(PHASES):
            count = count_parts(phase, tokens, live, parts)
            part = take_part(signals, first, count)
            while part >= 0:
                compute(phase, layer, part, count, weights, constants, lora, cache, work, call, shape)
                finish_part(signals)
                part = take_part(signals, first, count)
            first += count
    part = take_part(signals, first, parts)
    while part >= 0:
        output_logits(weights, constants, work, call, shape, wanted, part, parts)
        finish_part(signals)
        part = take_part(signals, first, parts)
    return first + parts


@entry
def run(signals, helping, weights, constants, lora, cache, work, call, shape):
    """Logits of the wanted tokens, from the embedded tokens in `work.x`, which it overwrites.

    Args:
        helping: False for the thread that makes the call; True for helpers, which take parts of any call that comes.
    """
    if helping:
        while await_call(signals):
            first, end = current_call(signals)
            tokens, wanted, live = call.counts[0], call.counts[1], call.counts[2]
            if is_open(signals, end):  # the counts that were read belong to this call
                run_parts(signals, first, tokens, wanted, live, weights, constants, lora, cache, work, call, shape)
        return
    tokens, wanted, live = call.counts[0], call.counts[1], call.counts[2]
    parts = work.scores.shape[0]
    total = parts
    for phase in range(PHASES):
        total += weights.qkv.shape[0] * count_parts(phase, tokens, live, parts)
    first = open_call(signals, total)
    end = run_parts(signals, first, tokens, wanted, live, weights, constants, lora, cache, work, call, shape)
    wait_until_done(signals, end)
