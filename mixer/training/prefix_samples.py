"""Places in texts where reward heads learn and are measured: hidden states of all layers, and tokens that may follow.

The base reads each text under a mix of its own, half of them at rest: a head trained on the base's states alone would
be lost as soon as a slider moves. The reward model never sees the mix, it reads plain text. Knows nothing of heads.

Source of the tokens to score: Troshin et al., arXiv 2407.04615, who distill on the likeliest tokens of every prefix.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from mixer.adapters.peft import AnchorSet
from mixer.desk import Desk
from mixer.errors import BadArtifact
from mixer.model.gate import Gate
from mixer.model.lora_hooks import LoRAHooks
from mixer.training.labels import Labelled, padded, text_batches
from mixer.training.reward_model import RewardModel, output_embedding
from mixer.values.mix import Mix, Setting
from mixer.values.request import Request
from mixer.values.sampling import SamplingParams

LIKELY, FURTHER, REACH = 20, 5, 100  # the likeliest tokens, and some more of those that steering can reach
CANDIDATES = LIKELY + FURTHER + 1  # the last one is the token that the text goes on with
WRITTEN_TOKENS = 48


@dataclass(frozen=True)
class Places:
    """N places; S states each, C candidates: the `LIKELY` likeliest in order, `FURTHER` likely ones, the observed one.

    Attributes:
        states: `(N, S, D)` bfloat16: the embedding, the output of every layer but the last, the final state.
        candidates: token ids, `(N, C)`, and logprobs: the mixed model's, `(N, C)`.
        labels: of the text, 0 or 1, not a number where it has none, `(N,)`.
        weights: `2 t / (L + 1)`, RAD's share of this prefix, with mean 1 over a text, `(N,)`.
        rewards: the reward model's, `(N, C)`; empty, `(0, C)`, where there is none.
    """

    states: Tensor
    candidates: Tensor
    logprobs: Tensor
    labels: Tensor
    weights: Tensor
    rewards: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, path: Path) -> None:
        """Write a cache, outside any shipped folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> Places:
        """Read a cache.

        Raises:
            BadArtifact: it is damaged.
        """
        try:
            return cls(**load_file(path))
        except (OSError, TypeError, SafetensorError) as error:
            raise BadArtifact(f"The cache {path} cannot be read: {error}.", "Remove it.") from error


class MixedBase:
    """A frozen base with its anchors, each row of a batch under a random mix."""

    def __init__(self, lm: PreTrainedModel, anchors: AnchorSet, seed: int) -> None:
        self.lm = lm
        self._attributes = tuple(anchors.attributes)
        self._names = tuple(adapter.anchor.name for adapter in anchors.adapters)
        parts = [adapter.parts for adapter in anchors.adapters]
        self._stack = LoRAHooks(lm, parts, lm.dtype) if parts else None
        self._rng = np.random.default_rng(seed)

    def random_mix(self) -> Mix:
        """At rest half of the time; else one to three sliders anywhere between their poles."""
        if not self._attributes or self._rng.random() < 0.5:
            return Mix()
        count = min(len(self._attributes), int(self._rng.integers(1, 4)))
        chosen = self._rng.choice(self._attributes, count, replace=False)
        return Mix({str(name): Setting.at(float(self._rng.uniform(-1, 1))) for name in chosen})

    @torch.inference_mode()
    def states(self, ids: Tensor) -> Tensor:
        """All states of token ids `(B, L)`, each row under a mix of its own: `(B, L, S, D)`."""
        if self._stack is None:
            return self._read(ids)
        gate = Gate(self._stack.ranks, len(ids))
        for row in range(len(ids)):
            gate[row] = self.random_mix().coefficients(self._names)
        with self._stack.applied(gate.values.to(self.lm.dtype)):
            return self._read(ids)

    def _read(self, ids: Tensor) -> Tensor:
        return torch.stack(self.lm.base_model(ids, output_hidden_states=True, use_cache=False).hidden_states, dim=2)


@torch.inference_mode()
def collect(
    base: MixedBase,
    rows: Sequence[Labelled],
    a_text: int,
    teacher: RewardModel | None,
    seed: int = 0,
    batch_tokens: int = 512,
    title: str = "places",
) -> Places:
    """`a_text` places of each text, drawn at random, those of very short texts more than once."""
    generator = torch.Generator().manual_seed(seed)
    rows = [r for r in rows if len(r.ids) >= 3]
    embedding = output_embedding(base.lm)
    made: list[tuple[Tensor, ...]] = []
    batches = text_batches(rows, batch_tokens, np.random.default_rng(seed))
    for batch in tqdm(batches, desc=title, file=sys.stderr, leave=False):
        ids, lengths, labels = padded(batch)
        draws = torch.rand(len(batch), a_text, generator=generator)
        where = 1 + (draws * (lengths[:, None] - 2)).long()  # something precedes, something follows
        states = base.states(ids)[torch.arange(len(batch))[:, None], where]  # (B, P, S, D)
        logprobs = torch.log_softmax((states[:, :, -1] @ embedding.T).float(), dim=-1)
        reach = logprobs.topk(min(REACH, logprobs.shape[-1])).indices
        ranks = torch.rand(*where.shape, reach.shape[-1] - LIKELY, generator=generator).argsort(-1)[..., :FURTHER]
        observed = ids.gather(1, where + 1)[..., None]
        candidates = torch.cat([reach[..., :LIKELY], reach.gather(2, LIKELY + ranks), observed], dim=-1)
        rewards = teacher.after(ids, where, candidates) if teacher else torch.zeros(*where.shape, 0)
        weights = 2 * where / lengths[:, None]  # the place is its number, and one token of the text begins all
        parts = (
            states.bfloat16(),
            candidates,
            logprobs.gather(2, candidates),
            labels[:, None].expand(-1, a_text),
            weights,
            rewards,
        )
        made.append(tuple(part.flatten(0, 1) for part in parts))
    states, candidates, logprobs, labels, weights, rewards = (torch.cat(part) for part in zip(*made, strict=True))
    return Places(states, candidates, logprobs, labels, weights, rewards if teacher else rewards.view(0, CANDIDATES))


def written(desk: Desk, prompts: Sequence[str], mixes: Sequence[Mix], seed: int = 0) -> list[Labelled]:
    """What the desk writes after these prompts, each under its own mix; no text has a label."""
    params = [SamplingParams(max_new_tokens=WRITTEN_TOKENS, seed=seed + i) for i in range(len(prompts))]
    requests = [Request(prompt, mix, one) for prompt, mix, one in zip(prompts, mixes, params, strict=True)]
    begun = [tuple(desk.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    return [
        Labelled(start + o.token_ids, np.nan) for start, o in zip(begun, desk.generate_batch(requests), strict=True)
    ]
