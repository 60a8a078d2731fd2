"""Ways of steering a text toward an attribute, what they write, and how far each goes from the base at every token.

All methods draw at temperature 1 from the `REACH` likeliest tokens of at least `MIN_P` times the largest share, as RAD
does from 20: those of the base where rewards steer, those of the changed model where its weights are changed. The
distance is one figure for all, and exact: `KL(p' || p)` over what is drawn from, p the whole base, less the same of the
base's own likely tokens, which everybody pays. Where the base's likely tokens are the only ones, that is the divergence
among them, as `Step.nats` has it. No text may end early: an empty one says nothing of its attribute, and a reward model
that dislikes a prompt likes its end. Knows nothing of judges, prompts' origin or reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixer.desk import Desk, Output
from mixer.model.gate import Gate
from mixer.model.lora_hooks import LoRAHooks
from mixer.rewards.controller import MIN_P, POLE_NATS
from mixer.rewards.heads import Reward, advantage, fused_matrix
from mixer.rewards.reference import budget_share
from mixer.values.mix import Mix, Setting
from mixer.values.request import Request
from mixer.values.sampling import SamplingParams
from mixer.values.steering import REST, Steering

REACH = 20
BUDGET = 1.0  # of LoRA and reward together, nats a token
BATCH = 32


@dataclass(frozen=True)
class Method:
    """One way of steering.

    Attributes:
        head: the reward that steers, by its name on the desk; None where none does.
        anchors: whether LoRA anchors do.
        fused: whether the head is part of the network's last product.
    """

    name: str
    head: str | None = None
    anchors: bool = False
    fused: bool = False

    @property
    def trims(self) -> bool:
        """Whether the drawing has to leave out unlikely tokens, because no steering does."""
        return self.head is None or self.fused


@dataclass(frozen=True)
class Direction:
    """Where an attribute's methods steer to.

    Attributes:
        sign: 1 toward the attribute, -1 away from it.
        anchor: the slider with LoRA anchors that stands for it, and anchor_sign: which way that one moves.
    """

    attribute: str
    sign: float
    anchor: str
    anchor_sign: float


@dataclass(frozen=True)
class MethodTexts:
    """What one method wrote at one slider value, a text a prompt, N in all.

    Attributes:
        nats: of each text, summed over its tokens, and tokens: how many these are.
        most: of a single token.
    """

    texts: tuple[str, ...]
    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    most: float


class Writer:
    """Writes with the methods of one attribute.

    Args:
        desk: with the rewards that the methods name.
        rewards: the heads among them, by name.
    """

    def __init__(self, desk: Desk, rewards: dict[str, Reward], direction: Direction) -> None:
        self.desk, self.rewards, self.direction = desk, rewards, direction
        parts = [adapter.parts for adapter in desk.anchor_set.adapters]
        self._lm = desk.base_model
        self._stack = LoRAHooks(self._lm, parts, self._lm.dtype) if parts else None
        self._ends = sorted(desk.session(".").state.ends)
        head = self._lm.get_output_embeddings()
        self._embedding: Tensor = head.weight.detach().float()  # type: ignore[union-attr]

    def write(self, method: Method, slider: float, prompts: Sequence[str], tokens: int, seed: int) -> MethodTexts:
        """One text after each prompt, prompt i with seed `seed + i`."""
        mix, steering = self.settings(method, slider)
        trim = {"top_k": REACH, "min_p": MIN_P} if method.trims or not slider else {}
        params = [
            SamplingParams(tokens, tokens, temperature=1.0, top_p=1.0, seed=seed + i, **trim)
            for i in range(len(prompts))
        ]
        requests = [Request(p, mix, own, steering=steering) for p, own in zip(prompts, params, strict=True)]
        outputs = self.desk.generate_batch(requests)
        counts = tuple(len(output.token_ids) for output in outputs)
        if not slider:
            nats, most = [0.0] * len(prompts), 0.0
        elif method.trims or method.anchors:
            apart = self.distances(method, slider, prompts, outputs)
            nats, most = [float(own.sum()) for own in apart], max(float(own.max()) for own in apart)
        else:
            nats = [output.stats.nats * count for output, count in zip(outputs, counts, strict=True)]
            most = max(output.stats.most_nats for output in outputs)
        return MethodTexts(tuple(o.text for o in outputs), tuple(round(n, 5) for n in nats), counts, round(most, 5))

    def settings(self, method: Method, slider: float) -> tuple[Mix, Steering]:
        """The mix and the steering of a method."""
        direction = self.direction
        mix = Mix({direction.anchor: Setting.at(direction.anchor_sign * slider)} if method.anchors and slider else {})
        if method.head is None or not slider:
            return mix, REST
        positions = {method.head: direction.sign * slider}
        if method.fused:
            return mix, Steering(positions, budget=None, fused=True)
        budget = BUDGET if method.anchors else None
        return mix, Steering(positions, budget=budget, whole=method.anchors, reach=REACH, cut=True)

    @torch.inference_mode()
    def distances(
        self, method: Method, slider: float, prompts: Sequence[str], outputs: Sequence[Output]
    ) -> list[np.ndarray]:
        """How far from the base a method with a head of this desk, or none, was at every token of its texts."""
        mix, steering = self.settings(method, slider)
        starts = [list(self.desk.tokenizer(prompt).input_ids) for prompt in prompts]
        found: list[np.ndarray] = []
        for first in range(0, len(prompts), BATCH):
            texts = [o.token_ids for o in outputs[first : first + BATCH]]
            states, moved, counts = self._states(starts[first : first + BATCH], texts, mix)
            base = self._logits(states)
            base -= base.logsumexp(-1, keepdim=True)
            tokens, drawn = self._drawn_from(base, moved, steering)
            found += [own.numpy() for own in excess(drawn, base.gather(1, tokens), base).split(counts)]
        return found

    def _states(
        self, starts: Sequence[list[int]], texts: Sequence[Sequence[int]], mix: Mix
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Final states before every token of texts, `(n, D)`: the base's and those under a mix."""
        longest = max(len(start) + len(text) for start, text in zip(starts, texts, strict=True))
        ids = torch.zeros(len(texts), longest, dtype=torch.long)
        wanted = torch.zeros(len(texts), longest, dtype=torch.bool)
        for row, (start, text) in enumerate(zip(starts, texts, strict=True)):
            ids[row, : len(start) + len(text)] = torch.tensor([*start, *text])
            wanted[row, len(start) - 1 : len(start) + len(text) - 1] = True
        states = moved = self._lm.base_model(ids, use_cache=False).last_hidden_state[wanted].float()
        if mix.settings and self._stack is not None:
            gate = Gate(self._stack.ranks, len(texts))
            for row in range(len(texts)):
                gate[row] = mix.coefficients(self.desk.anchors)
            with self._stack.applied(gate.values.to(self._lm.dtype)):
                moved = self._lm.base_model(ids, use_cache=False).last_hidden_state[wanted].float()
        return states, moved, [len(text) for text in texts]

    def _logits(self, states: Tensor) -> Tensor:
        """Of final states `(n, D)`, without tokens that would end the text, `(n, V)`."""
        logits = states @ self._embedding.T
        logits[:, self._ends] = -torch.inf
        return logits

    def _drawn_from(self, base: Tensor, states: Tensor, steering: Steering) -> tuple[Tensor, Tensor]:
        """What a method draws from: tokens, `(n, REACH)`, and their log-probabilities, -inf where too unlikely.

        The same as `mixer.rewards.controller` makes a row at a time, over again.
        """
        heads = [(self.rewards[name], position) for name, position in steering.positions.items()]
        if steering.fused:
            strengths = [reward.fused_strength(position, POLE_NATS) for reward, position in heads]
            states = states @ fused_matrix([reward.head for reward, _ in heads], strengths, self._embedding).T
        logits = self._logits(states)
        best, tokens = logits.topk(REACH)
        some = best >= best[:, :1] + math.log(MIN_P)
        after = before = best - logits.logsumexp(-1, keepdim=True)
        for reward, position in heads if not steering.fused else ():
            measured, probs = reward.calibration, torch.where(some, before.exp(), 0.0)
            rewards = reward.head.rewards(states, self._embedding[tokens])
            values = advantage(rewards, probs, measured.sigma, measured.clip)
            after = after + position * measured.betas[POLE_NATS] * values
        origin = base.gather(1, tokens) if steering.whole else before
        origin, after = (torch.log_softmax(one.masked_fill(~some, -torch.inf), dim=-1) for one in (origin, after))
        if steering.budget is None:
            return tokens, after
        push = torch.where(some, after - origin, 0.0)
        share = budget_share(origin, push, steering.budget).to(push)
        return tokens, torch.log_softmax(origin + share[:, None] * push, dim=-1)


def excess(drawn: Tensor, base: Tensor, whole: Tensor) -> Tensor:
    """`KL(p' || p)` less that of p's own likely tokens, `(n,)` in nats.

    0 where p' is p cut to its likely tokens; a little below 0 where p' spreads over more tokens of p than these.

    Args:
        drawn: log-probabilities of the tokens that are drawn from, `(n, k)`, and base: p's of the same.
        whole: p's of all tokens, `(n, V)`.
    """
    best = whole.topk(min(REACH, whole.shape[-1])).values
    own = best.masked_fill(best < best[:, :1] + math.log(MIN_P), -torch.inf).logsumexp(-1)
    share = drawn.exp()
    return torch.where(share > 0, share * (drawn - base), 0.0).sum(-1) + own
