"""Training texts as token ids, batches of them, and their likelihoods under a model.

Knows nothing of adapters or of how a model is trained.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mixer.model.chat_template import fill_template
from mixer.training.data import is_clean, offensive_words, read_attribute, split_of


@dataclass(frozen=True)
class TrainingText:
    """Token ids of one text. The loss counts tokens from `start` on; `reference` is the base's mean log-likelihood."""

    ids: tuple[int, ...]
    start: int
    reference: float = 0.0


# Requests that a pair's text answers. They name its opening, so that text and request fit together.
REQUESTS = (
    "Write a few sentences that begin with: {}",
    "Tell me a very short story. Its first words are: {}",
    "I need one short paragraph. Please start it like this: {}",
    "Go on from here, in your own words: {}",
)


@dataclass(frozen=True)
class Example:
    """A text to learn and, of a pair, the other text to learn the difference from; both are in one batch."""

    own: TrainingText
    other: TrainingText | None = None

    @property
    def length(self) -> int:
        return max(len(self.own.ids), len(self.other.ids) if self.other else 0)


def training_text(text: str, tokenizer: PreTrainedTokenizerBase, opening: str = "", longest: int = 192) -> TrainingText:
    """A text as token ids; `start` is the first token after the opening, and at least 1."""
    ids = tokenizer(text, truncation=True, max_length=longest)["input_ids"]
    start = len(tokenizer(opening)["input_ids"]) if opening else 1
    return TrainingText(tuple(ids), max(1, min(start, len(ids) - 1)))


def reply_text(text: str, tokenizer: PreTrainedTokenizerBase, opening: str, longest: int = 192) -> TrainingText:
    """The same text as a reply: behind the chat template and a request for a text with this opening.

    Args:
        longest: tokens of the text itself; the request is not counted.
    """
    request = REQUESTS[zlib.crc32(opening.encode()) % len(REQUESTS)].format(opening)
    messages = [{"role": "user", "content": request}]
    prompt = tokenizer(fill_template(tokenizer, messages), add_special_tokens=False)["input_ids"]
    ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=longest)["input_ids"]
    start = len(tokenizer(opening, add_special_tokens=False)["input_ids"])
    return TrainingText((*prompt, *ids), len(prompt) + max(1, min(start, len(ids) - 1)))


def unpaired_texts(
    data: Path | None,
    attribute: str,
    pole: str,
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    longest: int,
    seed: int,
) -> list[TrainingText]:
    """Unpaired texts of the anchors' split without offensive words, up to `tokens` tokens, in a seeded order."""
    texts = read_attribute(data, attribute, pole) if data is not None and tokens > 0 else []
    offensive = offensive_words(data) if texts and data is not None else frozenset()
    order = np.random.default_rng([seed, zlib.crc32(f"{attribute}.{pole}".encode())]).permutation(len(texts))
    chosen: list[TrainingText] = []
    for index in order:
        text = texts[index]
        # Short texts have little style: a comment of one line is mostly topic.
        if len(text.split()) < 10 or split_of(text) != "anchor" or not is_clean(text, offensive):
            continue
        chosen.append(training_text(text, tokenizer, longest=longest))
        tokens -= len(chosen[-1].ids)
        if tokens <= 0:
            break
    return chosen


def batches(examples: Sequence[Example], batch_tokens: int, rng: np.random.Generator) -> Iterator[list[Example]]:
    """All examples once, in batches of at most `batch_tokens` tokens with padding, in random order.

    Texts of similar length share a batch, so that there is little padding. An example that is longer has its own batch.
    """
    order = rng.permutation(len(examples))
    order = order[np.argsort([examples[i].length + 8 * rng.random() for i in order], kind="stable")]
    made: list[list[Example]] = [[]]
    for index in order:
        example = examples[index]
        members = [*made[-1], example]
        rows = sum(2 if member.other else 1 for member in members)
        if made[-1] and rows * max(member.length for member in members) > batch_tokens:
            made.append([])
        made[-1].append(example)
    for index in rng.permutation(len(made)):
        yield made[index]


def mean_loglikelihoods(model: torch.nn.Module, texts: Sequence[TrainingText]) -> tuple[Tensor, Tensor]:
    """Mean log-likelihood of each text's counted tokens, `(N,)` float32 in nats, and their number, `(N,)`.

    Texts are padded on the right. A causal model does not attend to what is to the right, so there is no mask. The
    output embedding, a fifth of the work in a small model, is applied to the counted part alone.
    """
    device = next(model.parameters()).device
    length = max(len(text.ids) for text in texts)
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    counted = torch.zeros(len(texts), length - 1, dtype=torch.bool)
    for i, text in enumerate(texts):
        ids[i, : len(text.ids)] = torch.tensor(text.ids)
        counted[i, text.start - 1 : len(text.ids) - 1] = True
    ids, counted = ids.to(device), counted.to(device)
    counted = torch.nn.functional.pad(counted, (0, 1))  # nothing follows a row's last token
    rows, targets = counted.nonzero()[:, 0], ids.roll(-1, 1)[counted]
    # The hook hands the counted positions to the output embedding, `(n, D)`, whatever the model does around it.
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][counted],))
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    count = counted.sum(1)
    return -losses.new_zeros(len(texts)).index_add(0, rows, losses) / count.clamp(min=1), count


@torch.inference_mode()
def score_texts(model: torch.nn.Module, texts: Sequence[TrainingText], batch_tokens: int = 4096) -> np.ndarray:
    """Mean log-likelihoods `(N,)` without gradients, in the order of `texts`."""
    result = np.zeros(len(texts), dtype=np.float64)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids))
    while order:
        size = max(1, batch_tokens // len(texts[order[-1]].ids))
        chunk, order = order[-size:], order[:-size]
        result[chunk] = mean_loglikelihoods(model, [texts[i] for i in chunk])[0].cpu().numpy()
    return result
