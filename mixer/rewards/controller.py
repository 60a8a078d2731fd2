"""Steering a text by reward heads: from the logits of its next token to others, at most a budget away.

    z'(v) / T = z(v) / T + kappa sum_a s_a beta_a clip((r_a(v) - E_p[r_a]) / sigma_a)      for the likely tokens v

kappa is 1 unless that would move the distribution by more than the budget. All heads of a model are stacked, and their
products with the embeddings kept, so that six cost about as much as one. Knows tensors and names; no text, no files.

Sources: arXiv 2407.04615 (the heads), arXiv 2310.09520 (the steering); calibration and budget are this project's.
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

SPENT = 0.5  # nats that a slider at its pole spends on the average
LEAST = 1e-3  # share of the likeliest token's probability that a token needs to be steered
PIECE = 8192  # rows of the embedding that are widened at once

NONE = np.zeros(0)


class TextReward(Protocol):
    """A reward model that reads the text itself, such as RAD's.

    Attributes:
        reach: how many of the likeliest tokens it is asked about.
    """

    calibration: HeadCalibration
    reach: int

    def rewards(self, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Of the text with each of these tokens after it, `(k,)` float32."""
        ...


@dataclass(frozen=True)
class SteeredLogits:
    """What steering made of a row.

    Attributes:
        logits: `(V,)`.
        nats: `KL(p' || p)` at the sampling temperature.
        levels: each head's reading of the text so far.
    """

    logits: Tensor
    nats: float = 0.0
    levels: Mapping[str, float] = field(default_factory=dict)


class PackedHeads(NamedTuple):
    """All heads in the layout that `mixer.kernels.steering.add_advantages` takes."""

    down: np.ndarray
    products: np.ndarray
    weights: np.ndarray
    spans: np.ndarray
    scales: np.ndarray


@dataclass(frozen=True, eq=False)
class PreparedSteering:
    """A steering, made ready for one controller.

    Attributes:
        own: the heads that steer, and their numbers, `(h,)`; positions: `(h,)`; aims: `(h,)`, a level or NaN.
        models: the reward models that steer.
        strengths: of every head where all are fused, `(H,)`; None where they are not.
        moves: whether rewards change any logits outside the network.
    """

    steering: Steering
    own: tuple[str, ...]
    numbers: np.ndarray
    positions: np.ndarray
    aims: np.ndarray
    models: tuple[str, ...]
    strengths: tuple[float, ...] | None = None

    @property
    def moves(self) -> bool:
        return bool(self.own or self.models)


class Likely(NamedTuple):
    """Tokens that may be steered, `(n,)` int64, and their log-probabilities at the sampling temperature, `(n,)`."""

    tokens: np.ndarray
    logprobs: np.ndarray


class RewardController:
    """The reward heads of one model, and reward models beside them.

    Args:
        heads: by name; each reads the model's final state.
        embedding: the model's output embedding, `(V, D)`.

    Attributes:
        models: reward models by name, other names than the heads'.
    """

    def __init__(self, heads: Mapping[str, Reward], embedding: Tensor) -> None:
        self.heads, self.models = dict(heads), dict[str, TextReward]()
        self._places = {name: place for place, name in enumerate(self.heads)}
        self._embedding = embedding

    @property
    def names(self) -> tuple[str, ...]:
        """All that a `Steering` may name."""
        return (*self.heads, *self.models)

    def prepare(self, steering: Steering) -> PreparedSteering:
        """Make a steering ready.

        Raises:
            UnknownName: it names a reward that is not here. Unsupported: a reward model is to be fused.
        """
        for name in steering.heads:
            if name not in self.names:
                raise UnknownName("reward", name, self.names)
        if steering.fused:
            if odd := [name for name in steering.heads if name in self.models]:
                raise Unsupported(f"{odd[0]} is a model of its own, which cannot be fused.", "Fuse heads alone.")
            places = [(reward, steering.positions.get(name, 0.0)) for name, reward in self.heads.items()]
            strengths = tuple(reward.fused_strength(position, SPENT) for reward, position in places)
            return PreparedSteering(steering, (), NONE, NONE, NONE, (), strengths)
        own = tuple(name for name in steering.heads if name in self.heads)
        return PreparedSteering(
            steering,
            own,
            np.array([self._places[name] for name in own], np.int64),
            np.array([steering.positions.get(name, 0.0) for name in own]),
            np.array([steering.levels.get(name, math.nan) for name in own]),
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
        """Steer one row; where nothing steers, the very same logits come back.

        Args:
            logits: `(V,)` float32, need not be normalized.
            state: the model's final state at the text's end, `(D,)`.
            temperature: that tokens will be drawn at; the budget counts there, and at 1 for 0.
            ids: the text's tokens, for reward models.
            plain: the same before judges and rewards of a formula, `(V,)`, whose likely tokens are steered; `logits` if
                there are none.
            origin: where the budget counts from, `(V,)`; `plain` if None.
        """
        steering = prepared.steering
        plain = logits if plain is None else plain
        origin = plain if origin is None else origin
        if not prepared.moves and (origin is logits or steering.budget is None):
            return SteeredLogits(logits)
        temperature = 1.0 if temperature < COLD else temperature
        budget = math.inf if steering.budget is None else steering.budget
        after, before, begun = (tensor.float().cpu().numpy() for tensor in (logits, plain, origin))
        most, apart, cut = min(steering.reach, after.size), origin is not logits, steering.cut and prepared.moves
        if prepared.own and not prepared.models:
            levels = np.zeros(len(prepared.own))
            own = (
                self._padded(state).numpy(),
                *self._stack,
                prepared.numbers,
                prepared.positions,
                prepared.aims,
                levels,
            )
            values, nats = steer_row(after, before, begun, apart, temperature, most, LEAST, budget, cut, *own)
            read = dict(zip(prepared.own, levels.tolist(), strict=True))
        else:
            some = Likely(np.empty(most, np.int64), np.empty(most, np.float32))
            count = find_likely(before, temperature, most, LEAST, *some)
            some = Likely(some.tokens[:count], some.logprobs[:count])
            bias, read = self._pressed(prepared, state, ids, some)
            values, nats = limit_to_budget(after, begun, apart, temperature, *some, bias, budget, cut)
        return SteeredLogits(torch.from_numpy(values).to(logits.device, logits.dtype), nats, read)

    def advantages(self, name: str, state: Tensor, ids: Sequence[int], tokens: Tensor, logprobs: Tensor) -> Tensor:
        """What one reward adds to these tokens at position 1, in nats, `(k,)`; see `mixer.rewards.heads.advantage`."""
        some = Likely(tokens.cpu().numpy(), logprobs.cpu().numpy())
        bias, _ = self._pressed(self.prepare(Steering({name: 1.0})), state, ids, some)
        return torch.from_numpy(bias)

    def _pressed(
        self, prepared: PreparedSteering, state: Tensor, ids: Sequence[int], some: Likely
    ) -> tuple[np.ndarray, dict[str, float]]:
        """What is added to the likely tokens, `(n,)` in nats before any budget, and every reward's reading."""
        bias, levels = np.zeros(some.tokens.size, np.float32), np.zeros(len(prepared.own))
        if prepared.own:
            own = (prepared.numbers, prepared.positions, prepared.aims)
            add_advantages(self._padded(state).numpy(), *self._stack, *own, *some, bias, levels)
        read = dict(zip(prepared.own, levels.tolist(), strict=True))
        for name in prepared.models:
            read[name] = self._press_model(name, prepared.steering, ids, some, bias)
        return bias, read

    def _padded(self, state: Tensor) -> Tensor:
        """A state on the host, its size a multiple of 16."""
        lacking = self._stack.down.shape[1] - state.numel()
        return pad(state, (0, lacking)).float().cpu() if lacking or state.device.type != "cpu" else state

    def _press_model(self, name: str, steering: Steering, ids: Sequence[int], some: Likely, bias: np.ndarray) -> float:
        """Add a reward model's part; what it expects of the text, as its reading."""
        model = self.models[name]
        best = np.argsort(-some.logprobs, kind="stable")[: model.reach]
        rewards = model.rewards(ids, some.tokens[best].tolist())
        probs = torch.from_numpy(some.logprobs[best]).exp()
        level = float((rewards * probs).sum() / probs.sum())
        position = steering.positions.get(name)
        if position is None:
            position = min(1.0, max(-1.0, GAIN * (steering.levels[name] - level)))
        measured = model.calibration
        values = advantage(rewards, probs, measured.sigma, measured.clip)
        bias[best] += position * measured.betas[SPENT] * values.numpy()
        return level

    @cached_property
    def _stack(self) -> PackedHeads:
        """All heads, each one's rank and the hidden size padded with zeros to multiples of 16."""
        size = -(-self._embedding.shape[1] // LANES) * LANES
        down, products, weights, spans, scales, at = [], [], [], [], [], 0
        for reward in self.heads.values():
            head, measured = reward.head, reward.calibration
            rank = -(-head.rank // LANES) * LANES
            up = head.up.to(self._embedding.device)
            parts = [piece.float() @ up for piece in self._embedding.split(PIECE)]
            down.append(pad(head.down, (0, size - head.down.shape[1], 0, rank - head.rank)))
            products.append(pad(torch.cat(parts).cpu(), (0, rank - head.rank)))
            weights.append(pad(head.weight, (0, size - head.weight.shape[0])))
            spans.append((at, at + rank))
            scales.append((head.bias, measured.sigma, measured.clip, measured.betas[SPENT]))
            at += rank
        return PackedHeads(
            torch.cat(down).numpy(),
            torch.cat(products, 1).contiguous().numpy(),
            torch.stack(weights).numpy(),
            np.array(spans),
            np.array(scales),
        )
