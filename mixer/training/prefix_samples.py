"""Samples of text prefixes that reward heads learn from and are measured on: hidden states, and likely next tokens.

The base reads each text under its own random mix, half of them at rest: a head that is trained on states of the base
alone would be wrong as soon as a slider moves. The reward model reads plain text, without any mix. Knows nothing of
heads.

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

from mixer.adapters.anchor_set import AnchorSet
from mixer.desk import Desk
from mixer.errors import BadArtifact
from mixer.model.gate import Gate
from mixer.model.lora_hooks import LoRAHooks
from mixer.training.labels import LabelledText, padded, text_batches
from mixer.training.reward_model import RewardModel, output_embedding
from mixer.values.mix import Mix, Setting
from mixer.values.request import Request
from mixer.values.sampling import SamplingParams

LIKELY, FURTHER, REACH = 20, 5, 100  # candidates: the LIKELY likeliest, and FURTHER random ones of the REACH likeliest
CANDIDATES = LIKELY + FURTHER + 1  # the last one is the observed token, with which the text goes on
WRITTEN_TOKENS = 48


@dataclass(frozen=True)
class PrefixSamples:
    """N prefixes with S states and C candidates each.

    Candidates are next tokens: the `LIKELY` likeliest in order, `FURTHER` likely ones, the observed one.

    Attributes:
        states: of the last token, `(N, S, D)` bfloat16: embedding, output of every layer but the last, final state.
        candidates: token ids, `(N, C)`. logprobs: of the mixed model, `(N, C)`.
        labels: of the text, 0 or 1, or NaN where it has none, `(N,)`.
        weights: `2 t / (L + 1)`, RAD's weight of this prefix, with mean 1 over a text, `(N,)`.
        rewards: of the reward model, `(N, C)`; empty, `(0, C)`, without a reward model.
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
        """Write a cache file, outside any shipped folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> PrefixSamples:
        """Read a cache file.

        Raises:
            BadArtifact: it is damaged.
        """
        try:
            return cls(**load_file(path))
        except (OSError, TypeError, SafetensorError) as error:
            raise BadArtifact(f"The cache {path} cannot be read: {error}.", "Remove it.") from error


class MixedBase:
    """A frozen base with its anchors, which reads each row of a batch under its own mix."""

    def __init__(self, lm: PreTrainedModel, anchors: AnchorSet, seed: int) -> None:
        self.lm = lm
        self._attributes = tuple(anchors.attributes)
        self._names = tuple(adapter.anchor.name for adapter in anchors.adapters)
        parts = [adapter.parts for adapter in anchors.adapters]
        self._hooks = LoRAHooks(lm, parts, lm.dtype) if parts else None
        self._rng = np.random.default_rng(seed)

    def random_mix(self) -> Mix:
        """The base half of the time; else one to three sliders at random positions between their poles."""
        if not self._attributes or self._rng.random() < 0.5:
            return Mix()
        count = min(len(self._attributes), int(self._rng.integers(1, 4)))
        chosen = self._rng.choice(self._attributes, count, replace=False)
        return Mix({str(name): Setting.at(float(self._rng.uniform(-1, 1))) for name in chosen})

    @torch.inference_mode()
    def states(self, ids: Tensor, mixes: Sequence[Mix]) -> Tensor:
        """All states `(B, L, S, D)` of token ids `(B, L)`, each row under its mix of these B ones."""
        if self._hooks is None:
            return self._read(ids)
        gate = Gate(self._hooks.ranks, len(ids))
        for row, mix in enumerate(mixes):
            gate[row] = mix.coefficients(self._names)
        with self._hooks.applied(gate.values.to(self.lm.dtype)):
            return self._read(ids)

    def _read(self, ids: Tensor) -> Tensor:
        return torch.stack(self.lm.base_model(ids, output_hidden_states=True, use_cache=False).hidden_states, dim=2)


@torch.inference_mode()
def collect(
    base: MixedBase,
    texts: Sequence[LabelledText],
    a_text: int,
    teacher: RewardModel | None,
    seed: int = 0,
    batch_tokens: int = 512,
    title: str = "prefixes",
    final_only: bool = False,
) -> PrefixSamples:
    """`a_text` random prefixes of each text of three tokens or more; the same prefix may be drawn again.

    Args:
        base: draws a random mix for each text. teacher: scores the candidates; None leaves rewards out.
        batch_tokens: most tokens of one pass.
        final_only: leave out the states of all layers but the last: S is 1.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = [text for text in texts if len(text.ids) >= 3]
    embedding = output_embedding(base.lm)
    made: list[tuple[Tensor, ...]] = []
    batches = text_batches(texts, batch_tokens, np.random.default_rng(seed))
    for batch in tqdm(batches, desc=title, file=sys.stderr, leave=False):
        ids, lengths, labels = padded(batch)
        draws = torch.rand(len(batch), a_text, generator=generator)
        ends = 1 + (draws * (lengths[:, None] - 2)).long()  # of prefixes: neither the first nor the last token
        states = base.states(ids, [base.random_mix() for _ in batch])
        states = states[torch.arange(len(batch))[:, None], ends]  # (B, P, S, D)
        logprobs = torch.log_softmax((states[:, :, -1] @ embedding.T).float(), dim=-1)
        reach = logprobs.topk(min(REACH, logprobs.shape[-1])).indices
        ranks = torch.rand(*ends.shape, reach.shape[-1] - LIKELY, generator=generator).argsort(-1)[..., :FURTHER]
        observed = ids.gather(1, ends + 1)[..., None]
        candidates = torch.cat([reach[..., :LIKELY], reach.gather(2, LIKELY + ranks), observed], dim=-1)
        rewards = teacher.after(ids, ends, candidates) if teacher else torch.zeros(*ends.shape, 0)
        weights = 2 * ends / lengths[:, None]  # length L + 1: the first token begins every text
        parts = (
            (states[:, :, -1:] if final_only else states).bfloat16(),
            candidates,
            logprobs.gather(2, candidates),
            labels[:, None].expand(-1, a_text),
            weights,
            rewards,
        )
        made.append(tuple(part.flatten(0, 1) for part in parts))
    states, candidates, logprobs, labels, weights, rewards = (torch.cat(part) for part in zip(*made, strict=True))
    rewards = rewards if teacher else rewards.view(0, CANDIDATES)
    return PrefixSamples(states, candidates, logprobs, labels, weights, rewards)


def written(desk: Desk, prompts: Sequence[str], mixes: Sequence[Mix], seed: int = 0) -> list[LabelledText]:
    """Texts that the desk writes after these prompts, each under its own mix; without labels."""
    params = [SamplingParams(max_new_tokens=WRITTEN_TOKENS, seed=seed + i) for i in range(len(prompts))]
    requests = [Request(prompt, mix, one) for prompt, mix, one in zip(prompts, mixes, params, strict=True)]
    starts = [tuple(desk.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    outputs = desk.generate_batch(requests)
    return [LabelledText(start + out.token_ids, np.nan) for start, out in zip(starts, outputs, strict=True)]
