"""From logits to tokens: temperature, truncation, and one draw. Pure functions; no model, no text.

A draw adds Gumbel noise to the log-probabilities and takes the largest sum. The noise is a function of the text's seed,
the step and the token alone: two rows with one seed share it, so the base and the mix differ only where the mix makes a
difference, and a text is the same on every device and in every batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from mixer.kernels.sampling import COLD, GOLDEN, MIX_1, MIX_2, draw
from mixer.values.sampling import SamplingParams

FIRST = 512  # tokens among which top-p is looked for first


def warp(logits: Tensor, params: SamplingParams) -> Tensor:
    """Log-probabilities after temperature, top-k, min-p and top-p, in that order.

    Args:
        logits: `(V,)` float32, unnormalized.

    Returns:
        `(V,)` float32, normalized; -inf where cut off. Temperature 0 leaves the likeliest token alone.
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
        if ordered.exp().sum() < params.top_p:  # seldom; sorting all tokens takes long
            ordered, order = logprobs.sort(descending=True)
        # The likeliest token always stays, and so does the one that crosses the threshold.
        kept = ordered.exp().cumsum(-1) - ordered.exp() < params.top_p
        kept[0] = True
        logprobs = torch.full_like(logprobs, -torch.inf).scatter(0, order[kept], ordered[kept])
    return torch.log_softmax(logprobs, dim=-1)


def noise(seeds: Sequence[int], steps: Sequence[int], ids: Tensor) -> Tensor:
    """Gumbel noise of tokens `(B, n)` in texts with these seeds, `(B,)`, at these steps, `(B,)`; `(B, n)` float32.

    SplitMix64 (Steele, Lea and Flood, 2014) over the three numbers.
    """
    if ids.device.type == "mps":  # which has no float64
        return noise(seeds, steps, ids.cpu()).to(ids.device)
    keys = [_key(seed, step) for seed, step in zip(seeds, steps, strict=True)]
    bits = torch.tensor(keys, device=ids.device)[:, None] + (ids + 1) * _signed(GOLDEN)
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        bits = (bits ^ _shifted(bits, shift)) * _signed(factor)
    bits = bits ^ _shifted(bits, 31)
    # 24 bits, halfway between the steps, so that neither 0 nor 1 occurs.
    uniform = (_shifted(bits, 40).double() + 0.5) * 2.0**-24
    return -torch.log(-torch.log(uniform)).float()


class Sampler:
    """Draws for the rows of a batch, each by its own options: the argmax of `warp` plus `noise`.

    Args:
        params: of each row, `(B,)`.
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
        """One token id a row, and its log-probability at temperature 1, from logits `(B, V)` float32.

        Args:
            logits: may be written to.
            seeds, steps: of each row, `(B,)`.
            may_end: whether a row may draw a token that ends its text, `(B,)`, though others are left; all may if None.
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
    """Where the noise of one step begins."""
    return _signed(_scramble(_scramble(seed) + step))


def _scramble(number: int) -> int:
    number = (number + GOLDEN) % 2**64
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        number = (number ^ number >> shift) * factor % 2**64
    return number ^ number >> 31


def _signed(number: int) -> int:
    """The 64-bit integer with the same bits."""
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number


def _shifted(bits: Tensor, places: int) -> Tensor:
    """A right shift that fills in zeros."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
