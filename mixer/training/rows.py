"""Texts as rows of token ids, batches of rows, and how likely a model finds them.

Knows nothing of adapters, poles or how a model is trained.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mixer.training.data import is_clean, offensive_words, read_attribute, split_of


@dataclass(frozen=True)
class TrainingText:
    """Token ids of one text; the loss counts tokens from `start` on. `reference` is the base's mean log-likelihood."""

    ids: tuple[int, ...]
    start: int
    reference: float = 0.0


@dataclass(frozen=True)
class Example:
    """One or two rows that belong in one batch: a text to learn and, of a pair, the one to stay away from."""

    own: TrainingText
    other: TrainingText | None = None

    @property
    def length(self) -> int:
        return max(len(self.own.ids), len(self.other.ids) if self.other else 0)


def training_text(text: str, tokenizer: PreTrainedTokenizerBase, opening: str = "", longest: int = 192) -> TrainingText:
    """A text as ids; `start` is the first token that reaches beyond the opening, and never the very first token."""
    ids = tokenizer(text, truncation=True, max_length=longest)["input_ids"]
    start = len(tokenizer(opening)["input_ids"]) if opening else 1
    return TrainingText(tuple(ids), max(1, min(start, len(ids) - 1)))


def unpaired_rows(
    data: Path | None,
    attribute: str,
    pole: str,
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    longest: int,
    seed: int,
) -> list[TrainingText]:
    """Rows of the anchors' split of unpaired texts, clean ones alone, up to `tokens` tokens, in a seeded order."""
    texts = read_attribute(data, attribute, pole) if data is not None and tokens > 0 else []
    offensive = offensive_words(data) if texts and data is not None else frozenset()
    order = np.random.default_rng([seed, zlib.crc32(f"{attribute}.{pole}".encode())]).permutation(len(texts))
    rows: list[TrainingText] = []
    for index in order:
        text = texts[index]
        # A few words carry little style, and a comment of one line is mostly topic.
        if len(text.split()) < 10 or split_of(text) != "anchor" or not is_clean(text, offensive):
            continue
        rows.append(training_text(text, tokenizer, longest=longest))
        tokens -= len(rows[-1].ids)
        if tokens <= 0:
            break
    return rows


def batches(tasks: Sequence[Example], batch_tokens: int, rng: np.random.Generator) -> Iterator[list[Example]]:
    """All tasks once, texts of like length together so that little is padding, the batches in random order."""
    order = rng.permutation(len(tasks))
    order = order[np.argsort([tasks[i].length + 8 * rng.random() for i in order], kind="stable")]
    made: list[list[Example]] = [[]]
    for index in order:
        task = tasks[index]
        members = [*made[-1], task]
        rows = sum(2 if member.other else 1 for member in members)
        if made[-1] and rows * max(member.length for member in members) > batch_tokens:
            made.append([])
        made[-1].append(task)
    for index in rng.permutation(len(made)):
        yield made[index]


def mean_loglikelihoods(model: torch.nn.Module, rows: Sequence[TrainingText]) -> tuple[Tensor, Tensor]:
    """Mean log-likelihood `(N,)` of each row's counted tokens, float32, and the number of them `(N,)`.

    Rows are padded on the right, where a causal model cannot see the padding, so no mask is needed.
    """
    device = next(model.parameters()).device
    length = max(len(r.ids) for r in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    counted = torch.zeros(len(rows), length - 1, dtype=torch.bool)
    for i, r in enumerate(rows):
        ids[i, : len(r.ids)] = torch.tensor(r.ids)
        counted[i, r.start - 1 : len(r.ids) - 1] = True
    ids, counted = ids.to(device), counted.to(device)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
    ).view_as(counted)
    count = counted.sum(1)
    return -(losses * counted).sum(1) / count.clamp(min=1), count


@torch.inference_mode()
def score_rows(model: torch.nn.Module, rows: Sequence[TrainingText], batch_tokens: int = 4096) -> np.ndarray:
    """Mean log-likelihoods `(N,)` without gradients, in the order of `rows`."""
    result = np.zeros(len(rows), dtype=np.float64)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    while order:
        size = max(1, batch_tokens // len(rows[order[-1]].ids))
        chunk, order = order[-size:], order[:-size]
        result[chunk] = mean_loglikelihoods(model, [rows[i] for i in chunk])[0].cpu().numpy()
    return result
