"""Sampling, compiled: one token for each row, as `mixer.decoding.sampler` defines it. Knows logits; no text."""

from __future__ import annotations

import math

import numpy as np

from mixer.kernels.simd import entry, exp, inner

COLD = 1e-4  # below this temperature float32 overflows, and the likeliest token is certain anyway
# Thresholds, as shares of the likeliest token's probability. They are tried in turn until enough tokens are above one:
# only those are sorted.
CUTS = (*(10.0 ** (-k / 2) for k in range(2, 17)), 0.0)
# SplitMix64's increment and the factors of its mixing function.
GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@inner
def largest(values):
    """The largest value; sixteen lanes, which LLVM compares at once."""
    lanes = np.empty(16, np.float32)
    for lane in range(16):
        lanes[lane] = -np.inf
    whole = values.size - values.size % 16
    for i in range(0, whole, 16):
        for lane in range(16):
            lanes[lane] = max(lanes[lane], values[i + lane])
    most = lanes[0]
    for lane in range(1, 16):
        most = max(most, lanes[lane])
    for i in range(whole, values.size):
        most = max(most, values[i])
    return most


@inner
def first_of(values, value):
    """The first index of a value; 0 where it is missing."""
    for i in range(values.size):
        if values[i] == value:
            return i
    return 0


@inner
def exp_of(values, most, factor, out):
    """Write `out = exp((values - most) * factor)`, and return its sum."""
    for i in range(values.size):
        out[i] = exp((values[i] - most) * factor)
    return total_from(out, np.float32(0))


@inner
def total_from(probs, least):
    """The sum of all probabilities that are at least `least`."""
    lanes = np.empty(16, np.float32)
    for lane in range(16):
        lanes[lane] = 0
    whole = probs.size - probs.size % 16
    for i in range(0, whole, 16):
        for lane in range(16):
            p = probs[i + lane]
            lanes[lane] += p if p >= least else np.float32(0)
    total = lanes[0]
    for lane in range(1, 16):
        total += lanes[lane]
    for i in range(whole, probs.size):
        if probs[i] >= least:
            total += probs[i]
    return total


@inner
def choose(probs, total, top_k, top_p, min_p, key):
    """Draw a token among those that top-k, top-p and min-p leave.

    Args:
        probs: `(V,)`, unnormalized: the largest is 1. total: their sum.
        key: int64, of the noise.
    """
    size = probs.size
    tokens = np.empty(size, np.int64)
    tokens[0] = 0  # is returned where no probability is a number
    if top_k == 0 and top_p >= 1 and min_p == 0:
        for token in range(size):
            tokens[token] = token
        return race(tokens, probs, size, key)
    least = np.float32(min_p)
    if top_k > 0 or min_p == 0:  # else all tokens above min_p are needed
        for cut in CUTS:
            least = np.float32(max(cut, min_p))
            if cut <= min_p:
                break
            if top_k > 0 and count_from(probs, least) >= top_k:
                break
            if top_k == 0 and total_from(probs, least) >= top_p * total:
                break
    count = 0
    for token in range(size):
        if probs[token] >= least:
            tokens[count] = token
            count += 1
    sort(tokens, probs, count)
    if 0 < top_k < count:
        count = top_k
    if top_p < 1:
        if top_k > 0 or min_p > 0:
            total = np.float32(0)
            for i in range(count):
                total += probs[tokens[i]]
        mass = np.float32(0)
        for i in range(count):
            if i > 0 and mass >= top_p * total:
                count = i
                break
            mass += probs[tokens[i]]
    return race(tokens, probs, count, key)


@inner
def count_from(probs, least):
    """How many probabilities are at least `least`."""
    count = 0
    for i in range(probs.size):
        count += probs[i] >= least
    return count


@inner
def sort(tokens, probs, count):
    """Sort the first `count` tokens by falling probability, equal ones by their ids, by heap sort."""
    for end in range(2 * count - 1, 0, -1):
        # The first half of the turns builds the heap. Each later turn moves its root, the least, behind the heap.
        root, size = end - count, count
        if end < count:
            root, size = 0, end
            tokens[0], tokens[end] = tokens[end], tokens[0]
        while True:
            child = 2 * root + 1
            if child >= size:
                break
            if child + 1 < size and later(tokens[child + 1], tokens[child], probs):
                child += 1
            if not later(tokens[child], tokens[root], probs):
                break
            tokens[root], tokens[child] = tokens[child], tokens[root]
            root = child


@inner
def later(a, b, probs):
    """Whether token a is sorted behind token b."""
    return probs[a] < probs[b] or (probs[a] == probs[b] and a > b)


@inner
def race(tokens, probs, count, key):
    """Draw one of `count` tokens: the one with the least exponential time, at the rate of its probability.

    That is the token with the largest sum of log-probability and Gumbel noise. The noise is SplitMix64 of key and
    token.
    """
    best, least = tokens[0], np.inf
    for i in range(count):
        token = tokens[i]
        bits = np.uint64(key) + np.uint64(token + 1) * np.uint64(GOLDEN)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(MIX_1)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(MIX_2)
        bits = bits ^ (bits >> np.uint64(31))
        uniform = (np.float64(bits >> np.uint64(40)) + 0.5) * 2.0**-24
        if probs[token] > 0:
            arrival = -math.log(uniform) / probs[token]
            if arrival < least:
                best, least = token, arrival
    return best


@entry
def draw(logits, barred, may_end, cold, temperature, top_k, top_p, min_p, keys, tokens, logprobs):
    """Draw a token for each row.

    Args:
        logits: `(B, V)` float32; changed where tokens are barred.
        barred: token ids, such as the end of the text.
        may_end: `(B,)`; rows where it is false draw barred tokens only if all others have probability 0.
        cold: `(B,)`, whether to take the likeliest token.
        temperature, top_k, top_p, min_p: `(B,)`; 1, 0, 1 and 0 change nothing.
        keys: `(B,)` int64, the seed of the noise: seed and step, scrambled.
        tokens, logprobs: `(B,)`, written: the choice, and its log-probability at temperature 1 with nothing barred.
    """
    rows, size = logits.shape
    probs = np.empty(size, np.float32)
    for row in range(rows):
        own = logits[row]
        most, factor = largest(own), np.float32(1.0 / temperature[row])
        log_total = most + math.log(exp_of(own, most, np.float32(1.0), probs))
        if not may_end[row]:
            kept = own[barred]
            for token in barred:
                own[token] = -np.inf
            if largest(own) == -np.inf:  # no other token is possible
                own[barred] = kept
            most = largest(own)
        if cold[row]:
            tokens[row] = first_of(own, most)
        else:
            total = exp_of(own, most, factor, probs)
            tokens[row] = choose(probs, total, top_k[row], top_p[row], min_p[row], keys[row])
        logprobs[row] = own[tokens[row]] - log_total
