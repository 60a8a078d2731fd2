"""From logits to a token: temperature, truncation, and one draw. Pure functions; no model, no text.

Draws use the Gumbel-max trick with noise that belongs to the row's seed: two rows with one seed share their noise, so
the base and the mix differ only where the mix makes a difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixer.params import SamplingParams

COLD = 1e-4  # below this temperature float32 overflows, and the likeliest token is certain anyway


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
        logprobs = logprobs.masked_fill(logprobs < logprobs.topk(params.top_k).values[-1], -torch.inf)
    if params.min_p > 0:
        floor = logprobs.max() + torch.log(torch.tensor(params.min_p, device=logprobs.device))
        logprobs = logprobs.masked_fill(logprobs < floor, -torch.inf)
    if params.top_p < 1:
        ordered, order = torch.log_softmax(logprobs, dim=-1).sort(descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        # The likeliest token always stays, and so does the one that crosses the threshold.
        cut = before >= params.top_p
        cut[0] = False
        logprobs = logprobs.masked_fill(torch.zeros_like(cut).scatter(0, order, cut), -torch.inf)
    return torch.log_softmax(logprobs, dim=-1)


def draw(logprobs: Tensor, generator: torch.Generator) -> int:
    """One token id from `(V,)` log-probabilities; the generator's state moves by V draws whatever they are."""
    noise = torch.empty(logprobs.shape, dtype=torch.float32).exponential_(generator=generator)
    return int((logprobs.cpu() - noise.clamp_min(1e-30).log()).argmax())
