"""The controller: it applies reward heads and reward models to the logits of the next token, within a budget.

    z'(v) / T = z(v) / T + kappa sum_a s_a beta_a clip((r_a(v) - E_p[r_a]) / sigma_a)      for the likely tokens v

kappa is 1 if the distribution then moves by at most the budget, otherwise the largest factor that the budget admits.
The matrices of all heads are packed into one, and their products with the embeddings are computed once. So six heads
cost about as much as one. This module knows tensors and names, and neither texts nor files.

Sources: arXiv 2407.04615 (the heads), arXiv 2310.09520 (the steering). Calibration and budget are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mixer.errors import UnknownName, Unsupported
from mixer.kernels.sampling import COLD
from mixer.kernels.simd import LANES
from mixer.kernels.steering import GAIN, add_advantages, find_likely, limit_to_budget, steer_row
from mixer.rewards.heads import HeadCalibration, Reward, advantage
from mixer.values.steering import Steering

POLE_NATS = 0.5  # mean KL(p' || p) of a slider at its pole
MIN_P = 1e-3  # only tokens of at least this share of the largest probability are steered
EMBEDDING_CHUNK = 8192  # rows of the embedding that are converted to float32 at once


class TextReward(Protocol):
    """A reward model that reads the text itself, such as RAD's.

    Attributes:
        reach: how many of the likeliest tokens it scores.
    """

    calibration: HeadCalibration
    reach: int

    def rewards(self, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Rewards of the text with each of these tokens appended, `(k,)` float32."""
        ...


@dataclass(frozen=True)
class SteeredLogits:
    """The steered logits of one row.

    Attributes:
        logits: `(V,)`.
        nats: `KL(p' || p)` at the sampling temperature.
        levels: each reward's reading of the text so far, by name.
    """

    logits: Tensor
    nats: float = 0.0
    levels: Mapping[str, float] = field(default_factory=dict)


class PackedHeads(NamedTuple):
    """All heads as the arrays that `mixer.kernels.steering.add_advantages` takes; shapes are given there."""

    down: np.ndarray
    products: np.ndarray
    weights: np.ndarray
    spans: np.ndarray
    scales: np.ndarray


@dataclass(frozen=True, eq=False)
class PreparedSteering:
    """A steering that one controller has checked and turned into arrays.

    Attributes:
        heads: names of the heads that steer after the forward pass; none if all heads are fused.
        numbers: `(h,)` int64, the places of these heads in the controller.
        positions: `(h,)`, their positions.
        target_levels: `(h,)`, the level to aim for in place of a position, or NaN.
        models: names of the reward models that steer.
        strengths: `(H,)`, the strength of every head if heads are fused; None if they are not.
    """

    steering: Steering
    heads: tuple[str, ...]
    numbers: np.ndarray
    positions: np.ndarray
    target_levels: np.ndarray
    models: tuple[str, ...]
    strengths: tuple[float, ...] | None = None

    @property
    def moves(self) -> bool:
        """Whether rewards change logits after the forward pass; fused heads act inside of it."""
        return bool(self.heads or self.models)


class LikelyTokens(NamedTuple):
    """The tokens that may be steered, `(n,)` int64, and their log-probabilities at the sampling temperature, `(n,)`."""

    tokens: np.ndarray
    logprobs: np.ndarray


class RewardController:
    """Applies steerings with the reward heads of one base model, and with reward models.

    Args:
        heads: by name; each reads the base model's final hidden state.
        embedding: the base model's output embedding, `(V, D)`.

    Attributes:
        models: reward models by name. No reward model has the name of a head.
    """

    def __init__(self, heads: Mapping[str, Reward], embedding: Tensor) -> None:
        self.heads, self.models = dict(heads), dict[str, TextReward]()
        self._head_numbers = {name: number for number, name in enumerate(self.heads)}
        self._embedding = embedding

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a `Steering` may use."""
        return (*self.heads, *self.models)

    def prepare(self, steering: Steering) -> PreparedSteering:
        """Check a steering and turn it into arrays.

        Raises:
            UnknownName: it names a reward that the controller does not have.
            Unsupported: it asks to fuse a reward model.
        """
        for name in steering.heads:
            if name not in self.names:
                raise UnknownName("reward", name, self.names)
        if steering.fused:
            if models := [name for name in steering.heads if name in self.models]:
                raise Unsupported(f"{models[0]} is a model of its own, which cannot be fused.", "Fuse heads alone.")
            positions = [(reward, steering.positions.get(name, 0.0)) for name, reward in self.heads.items()]
            strengths = tuple(reward.fused_strength(position, POLE_NATS) for reward, position in positions)
            empty = np.zeros(0)
            return PreparedSteering(steering, (), empty, empty, empty, (), strengths)
        heads = tuple(name for name in steering.heads if name in self.heads)
        return PreparedSteering(
            steering,
            heads,
            np.array([self._head_numbers[name] for name in heads], np.int64),
            np.array([steering.positions.get(name, 0.0) for name in heads]),
            np.array([steering.levels.get(name, math.nan) for name in heads]),
            tuple(name for name in steering.heads if name in self.models),
        )

    def steer(
        self,
        logits: Tensor,
        state: Tensor,
        prepared: PreparedSteering,
        temperature: float = 1.0,
        ids: Sequence[int] = (),
        plain: Tensor | None = None,
        origin: Tensor | None = None,
    ) -> SteeredLogits:
        """Steer one row. If nothing steers, the same tensor of logits comes back.

        Args:
            logits: `(V,)` float32; they need not be normalized.
            state: the base model's final hidden state at the text's last token, `(D,)`.
            temperature: the sampling temperature. The budget counts at this temperature, and at 1 if it is 0.
            ids: the tokens of prompt and text, which only reward models read.
            plain: the logits before a formula's judges and rewards, `(V,)`. They decide which tokens are likely.
                `logits` if None.
            origin: the logits that the budget counts from, `(V,)`; `plain` if None.
        """
        steering = prepared.steering
        plain = logits if plain is None else plain
        origin = plain if origin is None else origin
        if not prepared.moves and (origin is logits or steering.budget is None):
            return SteeredLogits(logits)
        temperature = 1.0 if temperature < COLD else temperature
        budget = math.inf if steering.budget is None else steering.budget
        current, before, start = (tensor.float().cpu().numpy() for tensor in (logits, plain, origin))
        most_tokens = min(steering.reach, current.size)
        # A budget with another origin also pays for the way from there to `logits`.
        apart, cut = origin is not logits, steering.cut and prepared.moves
        if prepared.heads and not prepared.models:
            levels = np.zeros(len(prepared.heads))
            head_arguments = (
                self._padded(state).numpy(),
                *self._packed_heads,
                prepared.numbers,
                prepared.positions,
                prepared.target_levels,
                levels,
            )
            values, nats = steer_row(
                current, before, start, apart, temperature, most_tokens, MIN_P, budget, cut, *head_arguments
            )
            readings = dict(zip(prepared.heads, levels.tolist(), strict=True))
        else:
            room = LikelyTokens(np.empty(most_tokens, np.int64), np.empty(most_tokens, np.float32))
            count = find_likely(before, temperature, most_tokens, MIN_P, *room)
            likely = LikelyTokens(room.tokens[:count], room.logprobs[:count])
            bias, readings = self._bias(prepared, state, ids, likely)
            values, nats = limit_to_budget(current, start, apart, temperature, *likely, bias, budget, cut)
        return SteeredLogits(torch.from_numpy(values).to(logits.device, logits.dtype), nats, readings)

    def advantages(self, name: str, state: Tensor, ids: Sequence[int], tokens: Tensor, logprobs: Tensor) -> Tensor:
        """What one reward adds to these tokens at position 1, in nats, `(k,)`; see `mixer.rewards.heads.advantage`."""
        likely = LikelyTokens(tokens.cpu().numpy(), logprobs.cpu().numpy())
        bias, _ = self._bias(self.prepare(Steering({name: 1.0})), state, ids, likely)
        return torch.from_numpy(bias)

    def _bias(
        self, prepared: PreparedSteering, state: Tensor, ids: Sequence[int], likely: LikelyTokens
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The bias on the likely tokens before any budget, `(n,)` in nats, and every reward's reading by name."""
        bias, levels = np.zeros(likely.tokens.size, np.float32), np.zeros(len(prepared.heads))
        if prepared.heads:
            sliders = (prepared.numbers, prepared.positions, prepared.target_levels)
            add_advantages(self._padded(state).numpy(), *self._packed_heads, *sliders, *likely, bias, levels)
        readings = dict(zip(prepared.heads, levels.tolist(), strict=True))
        for name in prepared.models:
            readings[name] = self._add_model_bias(name, prepared.steering, ids, likely, bias)
        return bias, readings

    def _padded(self, state: Tensor) -> Tensor:
        """A state in host memory, padded with zeros to a multiple of 16."""
        missing = self._packed_heads.down.shape[1] - state.numel()
        return pad(state, (0, missing)).float().cpu() if missing or state.device.type != "cpu" else state

    def _add_model_bias(
        self, name: str, steering: Steering, ids: Sequence[int], likely: LikelyTokens, bias: np.ndarray
    ) -> float:
        """Add a reward model's advantages to `bias`. Returns its reading: the mean reward of the likely tokens."""
        model = self.models[name]
        best = np.argsort(-likely.logprobs, kind="stable")[: model.reach]
        rewards = model.rewards(ids, likely.tokens[best].tolist())
        probs = torch.from_numpy(likely.logprobs[best]).exp()
        level = float((rewards * probs).sum() / probs.sum())
        position = steering.positions.get(name)
        if position is None:
            position = min(1.0, max(-1.0, GAIN * (steering.levels[name] - level)))
        calibration = model.calibration
        values = advantage(rewards, probs, calibration.sigma, calibration.clip)
        bias[best] += position * calibration.betas[POLE_NATS] * values.numpy()
        return level

    @cached_property
    def _packed_heads(self) -> PackedHeads:
        """All heads. The hidden size and each head's rank are padded with zeros to multiples of 16."""
        size = -(-self._embedding.shape[1] // LANES) * LANES
        down, products, weights, spans, scales, start = [], [], [], [], [], 0
        for reward in self.heads.values():
            head, calibration = reward.head, reward.calibration
            rank = -(-head.rank // LANES) * LANES
            up = head.up.to(self._embedding.device)
            chunks = [chunk.float() @ up for chunk in self._embedding.split(EMBEDDING_CHUNK)]
            down.append(pad(head.down, (0, size - head.down.shape[1], 0, rank - head.rank)))
            products.append(pad(torch.cat(chunks).cpu(), (0, rank - head.rank)))
            weights.append(pad(head.weight, (0, size - head.weight.shape[0])))
            spans.append((start, start + rank))
            scales.append((head.bias, calibration.sigma, calibration.clip, calibration.betas[POLE_NATS]))
            start += rank
        return PackedHeads(
            torch.cat(down).numpy(),
            torch.cat(products, 1).contiguous().numpy(),
            torch.stack(weights).numpy(),
            np.array(spans),
            np.array(scales),
        )
