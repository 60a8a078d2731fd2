"""Labelled texts for reward models and heads: pairs and unpaired texts of both poles as token ids, with label 0 or 1.

Knows nothing of models.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mixer.errors import BadArtifact, UnknownName
from mixer.training.data import (
    ATTRIBUTES,
    LABELLED,
    TOXICITY,
    Pair,
    attributes_with_pairs,
    find_pairs,
    is_clean,
    offensive_words,
    read_attribute,
    split_of,
    split_pairs,
)
from mixer.values.mix import POLES

Part = Literal["train", "validation", "test"]
# The most unpaired texts of each pole. They should not outweigh the pairs where style shows in every sentence.
# Sentiment and toxicity have no limit here: they lie in single words, of which pairs have too few.
UNPAIRED = {"formality": 1000, "politeness": 1000, "simplicity": 1000, "humor": 500, "poetry": 1000}


@dataclass(frozen=True)
class LabelledText:
    """One text as token ids, and its label; NaN where it has none."""

    ids: tuple[int, ...]
    label: float


def labelled_texts(
    data: Path | None,
    attribute: str,
    part: Part,
    tokenizer: PreTrainedTokenizerBase,
    longest: int = 96,
    repeat: int = 1,
    seed: int = 0,
) -> list[LabelledText]:
    """Texts of both poles: pairs, and unpaired texts where `data` has them.

    Training and validation texts are of the anchors' split, which judges do not learn from. Test texts are for measures
    alone. All texts of the toxicity set are in lower case. So that case tells nothing, half of them get a capital, and
    pairs of other attributes are added as neutral texts.

    Args:
        longest: tokens of a text; the rest is cut off.
        repeat: how often each pair is in the result.

    Raises:
        UnknownName: there are no texts for this attribute. BadArtifact: none of them falls into this part.
    """
    if attribute not in LABELLED and attribute not in attributes_with_pairs(data):
        raise UnknownName("attribute with labelled texts", attribute, LABELLED)
    rng = np.random.default_rng([seed, zlib.crc32(f"{attribute}.{part}".encode())])
    found: list[tuple[str, float]] = []
    sources = ATTRIBUTES if attribute == TOXICITY else (attribute,)
    for source in sources:
        pairs = of_part(find_pairs(data, source), part)
        for pair in pairs if attribute != TOXICITY else pairs[:: len(sources)]:
            texts = [(pair.negative, 0.0), (pair.positive, 0.0 if attribute == TOXICITY else 1.0)]
            found += texts * (1 if attribute == TOXICITY else repeat)
    unpaired = [
        [t for t in read_attribute(data, attribute, pole) if len(t.split()) >= 4 and _part_of(t) == part]
        if data
        else []
        for pole in POLES
    ]
    if attribute == "humor" and data:  # some of its jokes are in poor taste
        offensive = offensive_words(data)
        unpaired = [[text for text in texts if is_clean(text, offensive)] for texts in unpaired]
    most = min(UNPAIRED.get(attribute, sys.maxsize), *map(len, unpaired))
    for label, texts in enumerate(unpaired):
        for index in rng.permutation(len(texts))[:most]:
            text = texts[index]
            if attribute == TOXICITY and rng.random() < 0.5:
                text = text[:1].upper() + text[1:]
            found.append((text, float(label)))
    if not found:
        raise BadArtifact(f"There are no {part} texts for {attribute}.", "Point --data at a folder that has them.")
    encoded = tokenizer([text for text, _ in found], truncation=True, max_length=longest)["input_ids"]
    texts = [LabelledText(tuple(ids), label) for ids, (_, label) in zip(encoded, found, strict=True)]  # type: ignore[arg-type]
    return [text for text in texts if len(text.ids) > 1]


def _part_of(key: str) -> Part | None:
    split = split_of(key)
    if split == "anchor":
        return "validation" if zlib.crc32(key.encode(), 11) % 10 == 0 else "train"
    return "test" if split == "test" else None


def of_part(pairs: list[Pair], part: Part) -> list[Pair]:
    """The pairs of one part, keyed by their opening."""
    chosen = split_pairs(pairs, "test" if part == "test" else "anchor")
    return [pair for pair in chosen if _part_of(pair.opening) == part]


def padded(texts: Sequence[LabelledText]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids `(B, L)` padded on the right, the length of each text, and labels, `(B,)` each."""
    ids = torch.zeros(len(texts), max(len(text.ids) for text in texts), dtype=torch.long)
    for i, text in enumerate(texts):
        ids[i, : len(text.ids)] = torch.tensor(text.ids)
    return ids, torch.tensor([len(text.ids) for text in texts]), torch.tensor([text.label for text in texts])


def text_batches(
    texts: Sequence[LabelledText], batch_tokens: int, rng: np.random.Generator
) -> list[list[LabelledText]]:
    """All texts once, in batches of similar lengths and at most `batch_tokens` tokens, in random order."""
    order = rng.permutation(len(texts))
    order = order[np.argsort([len(texts[i].ids) + 4 * rng.random() for i in order], kind="stable")]
    made: list[list[LabelledText]] = [[]]
    for index in order:
        if made[-1] and (len(made[-1]) + 1) * len(texts[index].ids) > batch_tokens:
            made.append([])
        made[-1].append(texts[index])
    return [made[i] for i in rng.permutation(len(made))]
