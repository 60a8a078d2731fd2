"""One forward pass of a Llama-shaped transformer over tokens of any rows, as one compiled function.

    x += O attention(rope(QK norm(x)), V norm(x)),   x += down(silu(gate norm(x)) * up norm(x))

with every product `W x + B (g * (A x))` for the live anchors alone, and the final state, where reward heads are live,
`h + up (s * (down h))`. The work is a row of phases, each cut into parts that the threads of a team take as they are
free. Shapes: see `layout`.
"""

from __future__ import annotations

from mixer.kernels.layers import activate, add_head_shifts, attend, down_project, place, rms_norm, share, up_project
from mixer.kernels.simd import WIDTH, entry, inner, product
from mixer.kernels.threads import await_call, begin, current, finish, still, take, wait_until_done


@inner
def normalize(tokens, x, weight, eps, out, part, parts):
    """RMS norm of a part of the tokens."""
    start, stop = share(tokens, part, parts)
    for m in range(start, stop):
        rms_norm(x[m], weight, eps, out[m])


@inner
def clear(out, tokens, panels, part, parts):
    """Zeros in a part's panels of `out`."""
    start, stop = share(panels, part, parts)
    for m in range(tokens):
        out[m, start * WIDTH : stop * WIDTH] = 0


# The phases of a layer, in order; those that multiply by A are left out where no anchor is live. For a few tokens the
# norms and the activation are no phases, since meeting costs more than for each part to compute them for itself.
NORM_1, QKV_A, QKV, PLACE, ATTEND, O_A, OUT, NORM_2, GATE_UP_A, GATE_UP, ACTIVATE, DOWN_A, DOWN = range(13)
PHASES = 13
FEW = 4


@inner
def parts_of(phase, tokens, live, parts):
    """How many parts a phase is cut into."""
    if phase in (NORM_1, NORM_2, ACTIVATE) and tokens <= FEW:
        return 0
    if phase in (NORM_1, NORM_2):
        return min(tokens, parts)
    if phase in (QKV_A, O_A, GATE_UP_A, DOWN_A) and live == 0:
        return 0
    return parts


@inner
def compute(phase, layer, part, parts, weights, small, lora, cache, work, call, shape):
    """One part of one phase of a layer."""
    tokens, live = call.counts[0], call.counts[2]
    few = tokens <= FEW  # then each part computes all of it, in the first phase that needs it
    lead, of, own = (0, 1, part) if few else (part, parts, 0)
    normed, active = work.normed[own], work.active[own]
    if phase == NORM_1 or (few and phase == (QKV_A if live else QKV)):
        normalize(tokens, work.x, small.attention_norm[layer], shape.eps, normed, lead, of)
    elif phase == NORM_2 or (few and phase == (GATE_UP_A if live else GATE_UP)):
        normalize(tokens, work.x, small.mlp_norm[layer], shape.eps, normed, lead, of)
    elif phase == ACTIVATE or (few and phase == (DOWN_A if live else DOWN)):
        activate(work.gate_up, tokens, shape.ff_size, active, lead, of)
    if phase == QKV_A:
        down_project(layer, normed, lora.qkv_a, work.low, call, part, parts)
    elif phase == QKV:
        clear(work.qkv, tokens, weights.qkv.shape[1], part, parts)
        if small.bias.shape[1]:
            start, stop = share(weights.qkv.shape[1], part, parts)
            for m in range(tokens):
                work.qkv[m, start * WIDTH : stop * WIDTH] = small.bias[layer, start * WIDTH : stop * WIDTH]
        up_project(layer, normed, weights.qkv, lora.qkv_b, work.low, call, work.qkv, part, parts)
    elif phase == PLACE:
        place(layer, small, cache, call, work, shape, part, parts)
    elif phase == ATTEND:
        attend(layer, small, cache, call, work, shape, part, parts)
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
def read_out(weights, small, work, call, shape, wanted, part, parts):
    """Logits of the wanted tokens; a part of the vocabulary. Every part norms and head_gates for itself: it is little."""
    hidden = work.hidden[part]
    for i in range(wanted):
        rms_norm(work.x[call.wanted[i]], small.final_norm, shape.eps, hidden[i])
    if call.counts[3]:
        add_head_shifts(hidden, small, call, work.rewards_low[part], work.rewards_out[part])
        hidden = work.rewards_out[part]
    panels, depth = weights.head.shape[1:3]
    clear(work.logits, wanted, panels, part, parts)
    start, stop = share(panels, part, parts)
    for panel in range(start, stop):
        at, to = panel * depth * WIDTH, panel * WIDTH
        product(work.logits, to, panels * WIDTH, hidden, 0, hidden.shape[1], wanted, weights.head, at, depth)


@inner
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


@entry
def run(signals, helping, weights, small, lora, cache, work, call, shape):
    """Logits of the wanted tokens, from the embedded tokens in `work.x`, which it overwrites.

    Args:
        helping: False for the thread that makes the call; True for one that helps with calls as they come.
    """
    if helping:
        while await_call(signals):
            first, end = current(signals)
            tokens, wanted, live = call.counts[0], call.counts[1], call.counts[2]
            if still(signals, end):  # so the counts read are of this very call
                work_through(signals, first, tokens, wanted, live, weights, small, lora, cache, work, call, shape)
        return
    tokens, wanted, live = call.counts[0], call.counts[1], call.counts[2]
    parts = work.scores.shape[0]
    total = parts
    for phase in range(PHASES):
        total += weights.qkv.shape[0] * parts_of(phase, tokens, live, parts)
    first = begin(signals, total)
    end = work_through(signals, first, tokens, wanted, live, weights, small, lora, cache, work, call, shape)
    wait_until_done(signals, end)
