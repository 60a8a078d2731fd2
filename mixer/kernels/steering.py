"""Steering by reward heads, compiled: the bias that heads give the likely next tokens of one row, within a budget.

It computes what `mixer.rewards.heads` and `mixer.rewards.reference` define (`likely`, `rewards`, `advantage`,
`budget_share`), in fewer passes over the vocabulary. The products of a head's `up` with all token embeddings are
computed beforehand: a reward is then a product of the head's rank. Knows no names.
"""

from __future__ import annotations

import math

import numpy as np

from mixer.kernels.sampling import exp_of, largest
from mixer.kernels.simd import dots, entry, exp, inner

CLOSE = 1e-4  # how far below its budget a divergence may end, as a share of the budget
ROUNDS = 40
GAIN = 2.0  # where the level is 0.5 below its aim, a head steers with all its strength


@inner
def kth_largest(values, count, k):
    """The k-th largest of the first `count` values, which it reorders."""
    low, high, want = 0, count - 1, k - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if want <= j:
            high = j
        elif want >= i:
            low = i
        else:
            break
    return values[want]


@inner
def divergence(logprobs, push, count, rest, kappa):
    """`KL(p' || p)` in nats, of `p' = softmax(log p + kappa push)`; tokens not listed have the mass `rest`, no push."""
    most = np.float32(0) if rest > 0 else np.float32(-np.inf)
    for i in range(count):
        if logprobs[i] > -np.inf:
            most = max(most, np.float32(kappa * push[i]))
    total, along = rest * math.exp(-most), 0.0
    for i in range(count):
        if logprobs[i] > -np.inf and push[i] > -np.inf:
            share = exp(logprobs[i] + np.float32(kappa * push[i]) - most)
            total += share
            along += share * push[i]
    return max(0.0, kappa * along / total - math.log(total) - most)


@inner
def largest_kappa(logprobs, push, count, rest, budget):
    """The largest kappa in [0, 1] whose divergence is within the budget, and that divergence.

    The divergence grows about as kappa squared. Its root is nearly linear, and the Illinois method (regula falsi) finds
    where it meets the root of the budget.
    """
    whole = divergence(logprobs, push, count, rest, 1.0)
    if whole <= budget:
        return 1.0, whole
    goal = math.sqrt(budget * (1 - CLOSE / 2))
    low, high, below, above, spent, side = 0.0, 1.0, -goal, math.sqrt(whole) - goal, 0.0, 0
    for _ in range(ROUNDS):
        if budget - spent <= CLOSE * budget:
            break
        kappa = (low * above - high * below) / (above - below)
        now = divergence(logprobs, push, count, rest, kappa)
        if now <= budget:
            low, below, spent = kappa, min(0.0, math.sqrt(now) - goal), now
            above *= 0.5 if side < 0 else 1.0
            side = -1
        else:
            high, above = kappa, math.sqrt(now) - goal
            below *= 0.5 if side > 0 else 1.0
            side = 1
    return low, spent


@inner
def select_likely(logits, factor, most_tokens, least, tokens, logprobs):
    """Write the tokens that may be steered, in the order of their ids, and their log-probabilities; returns how many.

    Args:
        factor: 1 / temperature.
        most_tokens: how many of the likeliest at most. least: a token's probability is at least this share of the
            likeliest one's.
        tokens, logprobs: `(most_tokens,)`, written.
    """
    size = logits.shape[0]
    probs = np.empty(size, np.float32)
    most = largest(logits)
    log_total = np.float32(math.log(exp_of(logits, most, np.float32(factor), probs)))
    found, count = np.empty(size, np.float32), 0
    for token in range(size):
        found[count] = probs[token]
        count += probs[token] >= least
    above, ties = np.float32(least), most_tokens
    if count > most_tokens:
        above = kth_largest(found, count, most_tokens)
        for i in range(count):
            ties -= found[i] > above
    count = 0
    for token in range(size):
        if probs[token] < above or (probs[token] == above and ties <= 0):
            continue
        ties -= probs[token] == above
        tokens[count] = token
        logprobs[count] = (logits[token] - most) * np.float32(factor) - log_total
        count += 1
        if count == most_tokens:
            break
    return count


@inner
def accumulate_advantages(
    state, down, products, weights, spans, scales, heads, positions, aims, tokens, logprobs, bias, levels
):
    """See `add_advantages`."""
    depth, width = down.shape[1], down.shape[0]
    low, level = np.empty(width, np.float32), np.empty(1, np.float32)
    rewards, probs = np.empty(tokens.size, np.float32), np.empty(tokens.size, np.float32)
    mass = 0.0
    for i in range(tokens.size):
        probs[i] = exp(logprobs[i])
        mass += probs[i]
    for k in range(heads.size):
        head = heads[k]
        start, stop = spans[head]
        offset, sigma, clip, beta = scales[head]
        dots(level, 0, 0, state, 0, 0, 1, weights, head * depth, depth, 1)
        levels[k] = level[0] + offset
        position = positions[k]
        if not math.isnan(aims[k]):
            position = min(1.0, max(-1.0, GAIN * (aims[k] - levels[k])))
        dots(low, start, 0, state, 0, 0, 1, down, start * depth, depth, stop - start)
        mean = 0.0
        for i in range(tokens.size):
            dots(rewards, i, 0, low, start, 0, 1, products, tokens[i] * width + start, stop - start, 1)
            mean += rewards[i] * probs[i]
        mean /= mass
        for i in range(tokens.size):
            bias[i] += np.float32(position * beta * min(clip, max(-clip, (rewards[i] - mean) / sigma)))


@inner
def limit_within(logits, temperature, tokens, logprobs, bias, budget, cut):
    """Logits with as much of a bias on these tokens as the budget admits, and the nats spent; see `limit_to_budget`."""
    mass = 0.0
    for i in range(tokens.size):
        mass += math.exp(logprobs[i])
    if cut:
        logprobs = logprobs - np.float32(math.log(mass))
    kappa, nats = largest_kappa(logprobs, bias, tokens.size, 0.0 if cut else max(0.0, 1 - mass), budget)
    return biased(logits, kappa * temperature, tokens, bias, cut), nats


@inner
def limit_between(logits, origin, temperature, tokens, bias, budget, cut):
    """The same where the budget counts from `origin`, so that the way from there to `logits` is spent too."""
    whole = biased(logits, temperature, tokens, bias, cut)
    if cut:
        origin = biased(origin, 0.0, tokens, bias, cut)
    before, push = log_softmax(origin, temperature), log_softmax(whole, temperature)
    for token in range(before.size):
        push[token] = push[token] - before[token] if before[token] > -np.inf else np.float32(0)
    kappa, nats = largest_kappa(before, push, before.size, 0.0, budget)
    if kappa == 1:
        return whole, nats
    if kappa == 0:
        return origin, nats
    for token in range(before.size):
        before[token] = np.float32(temperature) * (before[token] + np.float32(kappa) * push[token])
    return before, nats


@inner
def biased(logits, factor, tokens, bias, cut):
    """Logits with a bias on some tokens; with `cut`, all other tokens are impossible."""
    out = np.full(logits.size, np.float32(-np.inf)) if cut else logits.copy()
    for i in range(tokens.size):
        out[tokens[i]] = logits[tokens[i]] + np.float32(factor * bias[i])
    return out


@inner
def log_softmax(logits, temperature):
    """Log-probabilities at a temperature."""
    most, factor, out = largest(logits), np.float32(1 / temperature), np.empty(logits.size, np.float32)
    log_total = np.float32(math.log(exp_of(logits, most, factor, out)))
    for token in range(logits.size):
        out[token] = (logits[token] - most) * factor - log_total
    return out


@entry
def find_likely(logits, temperature, most_tokens, least, tokens, logprobs):
    """See `select_likely`."""
    return select_likely(logits, 1 / temperature, most_tokens, least, tokens, logprobs)


@entry
def add_advantages(
    state, down, products, weights, spans, scales, heads, positions, aims, tokens, logprobs, bias, levels
):
    """Add the heads' scaled advantages to `bias`, `(n,)`, in nats, and write their thermometers' `levels`, `(h,)`.

    Args:
        state: `(D,)`; D and every head's rank are padded to multiples of 16.
        down: `(R, D)` of all heads. products: `(V, R)`, the embeddings times every head's `up`.
        weights: `(H, D)` of the thermometers. spans: `(H, 2)`, start and stop of each head in R.
        scales: `(H, 4)`: the thermometer's bias, sigma, clip, beta.
        heads: `(h,)`, those that steer. positions: `(h,)`. aims: `(h,)`, a level in place of a position, or NaN.
        tokens, logprobs: `(n,)`, the tokens that may be steered.
    """
    accumulate_advantages(
        state, down, products, weights, spans, scales, heads, positions, aims, tokens, logprobs, bias, levels
    )


@entry
def limit_to_budget(logits, origin, apart, temperature, tokens, logprobs, bias, budget, cut):
    """Add as much of a bias as a budget admits; returns logits `(V,)` and the nats spent.

    Args:
        logits: `(V,)` float32. temperature: above 0; log-probabilities, bias and budget are at this temperature.
        origin: `(V,)`, the logits that the budget counts from; read only if `apart` says that they are others.
        tokens, logprobs, bias: `(n,)`, of the tokens that are steered.
        budget: nats. cut: make all other tokens impossible; the budget then counts among these tokens alone.
    """
    if apart:
        return limit_between(logits, origin, temperature, tokens, bias, budget, cut)
    return limit_within(logits, temperature, tokens, logprobs, bias, budget, cut)


@entry
def steer_row(
    logits,
    plain,
    origin,
    apart,
    temperature,
    most_tokens,
    least,
    budget,
    cut,
    state,
    down,
    products,
    weights,
    spans,
    scales,
    heads,
    positions,
    aims,
    levels,
):
    """`find_likely` for the logits `plain`, `add_advantages` and `limit_to_budget` in one call."""
    tokens, logprobs = np.empty(most_tokens, np.int64), np.empty(most_tokens, np.float32)
    count = select_likely(plain, 1 / temperature, most_tokens, least, tokens, logprobs)
    tokens, logprobs, bias = tokens[:count], logprobs[:count], np.zeros(count, np.float32)
    accumulate_advantages(
        state, down, products, weights, spans, scales, heads, positions, aims, tokens, logprobs, bias, levels
    )
    if apart:
        return limit_between(logits, origin, temperature, tokens, bias, budget, cut)
    return limit_within(logits, temperature, tokens, logprobs, bias, budget, cut)
