"""From logits to tokens: temperature, truncation, and one draw. Pure functions. Knows no model and no text.

A draw adds Gumbel noise to the log-probabilities and takes the token with the largest sum (the Gumbel-max trick). The
noise depends on the text's seed, the number of tokens before, and the token id; on nothing else. So a text is the same
on every device and in every batch. Two texts with one seed share their noise: they differ only where their
distributions differ.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from mixer.kernels.sampling import COLD, GOLDEN, MIX_1, MIX_2, draw
from mixer.values.sampling import SamplingParams

FIRST = 512  # likeliest tokens that top-p looks at first; in most cases they are enough


def warp(logits: Tensor, params: SamplingParams) -> Tensor:
    """Log-probabilities after temperature, top-k, min-p and top-p, in that order.

    Args:
        logits: `(V,)` float32, unnormalized.

    Returns:
        `(V,)` float32, normalized; -inf for tokens that are cut off. At temperature 0 only the likeliest token is left.
    """
    if params.temperature < COLD:
        best = torch.full_like(logits, -torch.inf)
        best[logits.argmax()] = 0.0
        return best
    logprobs = torch.log_softmax(logits / params.temperature, dim=-1)
    if 0 < params.top_k < logprobs.numel():
        kept = logprobs.topk(params.top_k)
        logprobs = torch.full_like(logprobs, -torch.inf).scatter(0, kept.indices, kept.values)
    if params.min_p > 0:
        floor = logprobs.max() + torch.log(torch.tensor(params.min_p, device=logprobs.device))
        logprobs = logprobs.masked_fill(logprobs < floor, -torch.inf)
    if params.top_p < 1:
        logprobs = torch.log_softmax(logprobs, dim=-1)
        ordered, order = logprobs.topk(min(FIRST, logprobs.numel()))
        if ordered.exp().sum() < params.top_p:  # rare; to sort all tokens is slow
            ordered, order = logprobs.sort(descending=True)
        # The token that crosses the threshold stays, and the likeliest token always does.
        kept = ordered.exp().cumsum(-1) - ordered.exp() < params.top_p
        kept[0] = True
        logprobs = torch.full_like(logprobs, -torch.inf).scatter(0, order[kept], ordered[kept])
    return torch.log_softmax(logprobs, dim=-1)


def noise(seeds: Sequence[int], steps: Sequence[int], ids: Tensor) -> Tensor:
    """Gumbel noise, `(B, n)` float32: SplitMix64 (Steele, Lea and Flood, 2014) of seed, step and token id.

    Args:
        seeds: of each text, `(B,)`.
        steps: number of tokens before the next one in each text, `(B,)`.
        ids: token ids, `(B, n)`.
    """
    if ids.device.type == "mps":  # which has no float64
        return noise(seeds, steps, ids.cpu()).to(ids.device)
    keys = [_key(seed, step) for seed, step in zip(seeds, steps, strict=True)]
    bits = torch.tensor(keys, device=ids.device)[:, None] + (ids + 1) * _signed(GOLDEN)
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        bits = (bits ^ _shifted(bits, shift)) * _signed(factor)
    bits = bits ^ _shifted(bits, 31)
    # 24 bits plus one half: neither 0 nor 1 occurs.
    uniform = (_shifted(bits, 40).double() + 0.5) * 2.0**-24
    return -torch.log(-torch.log(uniform)).float()


class Sampler:
    """Draws one token for each row, under the row's own parameters: the argmax of `warp` plus `noise`.

    Args:
        params: sampling parameters of each row, `(B,)`.
        ends: token ids that end a text.
    """

    def __init__(self, params: Sequence[SamplingParams], ends: Collection[int]) -> None:
        self.params = tuple(params)
        self._ends = np.array(sorted(ends), np.int64)
        self._cold = np.array([p.temperature < COLD for p in params])
        self._options = (
            np.array([1.0 if p.temperature < COLD else p.temperature for p in params]),
            np.array([p.top_k for p in params], np.int64),
            np.array([p.top_p for p in params]),
            np.array([p.min_p for p in params]),
        )

    def __call__(
        self, logits: Tensor, seeds: Sequence[int], steps: Sequence[int], may_end: Sequence[bool] | None = None
    ) -> tuple[list[int], list[float]]:
        """Draw one token for each row.

        Args:
            logits: `(B, V)` float32. They may be overwritten.
            seeds, steps: see `noise`, `(B,)`.
            may_end: whether a row may draw a token that ends its text, `(B,)`; None: all rows may. A row that may not
                draws such a token only if no other is left.

        Returns:
            Token ids `(B,)`, and their log-probabilities at temperature 1, before truncation, `(B,)`.
        """
        free = np.ones(len(self.params), bool) if may_end is None else np.array(may_end)
        if logits.device.type == "cpu":
            tokens, logprobs = np.zeros(len(free), np.int64), np.zeros(len(free))
            keys = np.array([_key(seed, step) for seed, step in zip(seeds, steps, strict=True)], np.int64)
            draw(logits.numpy(), self._ends, free, self._cold, *self._options, keys, tokens, logprobs)
            return tokens.tolist(), logprobs.tolist()
        totals = logits.logsumexp(-1)
        for row in np.flatnonzero(~free):
            rest = logits[row].index_fill(0, torch.from_numpy(self._ends).to(logits.device), -torch.inf)
            if rest.max() > -torch.inf:
                logits[row] = rest
        ids = torch.arange(logits.shape[1], device=logits.device)[None]
        warped = torch.stack([warp(own, params) for own, params in zip(logits, self.params, strict=True)])
        best = (warped + noise(seeds, steps, ids.expand_as(logits))).argmax(-1, keepdim=True)
        return best[:, 0].tolist(), (logits.gather(1, best)[:, 0] - totals).tolist()


def _key(seed: int, step: int) -> int:
    """The SplitMix64 state from which the noise of one step is computed."""
    return _signed(_scramble(_scramble(seed) + step))


def _scramble(number: int) -> int:
    """One SplitMix64 step of an unsigned 64-bit integer."""
    number = (number + GOLDEN) % 2**64
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        number = (number ^ number >> shift) * factor % 2**64
    return number ^ number >> 31


def _signed(number: int) -> int:
    """The signed 64-bit integer with the same bits."""
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number


def _shifted(bits: Tensor, places: int) -> Tensor:
    """A logical right shift: zeros come in from the left."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
