"""Word vectors for the judges, from the words around each word in plain text.

The matrix of positive pointwise mutual information between words and context words is factored by its eigenvectors
(Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization"; contexts smoothed as in Levy,
Goldberg and Dagan 2015). This needs no labels: a judge that learned "joy" from few texts also knows "gladness". Knows
nothing of attributes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mixer.errors import InvalidValue
from mixer.judges.features import WORD
from mixer.judges.linear import FORMAT
from mixer.training.data import read_lines

REACH = 6  # words on each side that are contexts
NEAR = 3  # words on each side with full weight; those further away have less
GAP = [-1] * REACH


def plain_texts(data: Path, characters: int = 90_000_000) -> Iterator[str]:
    """Texts of the pretraining files, at most 60,000 characters of each document, so that they are of many books."""
    for name, share in (("fiction", 1.0), ("wikipedia", 1 / 6), ("dialogue", 1 / 6)):
        budget = characters * share
        for line in read_lines(data / "pretrain" / f"{name}.jsonl.xz"):
            text = json.loads(line)["text"][:60_000]
            budget -= len(text)
            if budget < 0:
                break
            yield text


def train_words(
    texts: Iterable[str], out: Path, vocabulary: int = 16_000, contexts: int = 4_000, width: int = 128
) -> int:
    """Write `words.json` and `words.safetensors` (int8 vectors `(V, K)` with a float32 scale a word) to `out`.

    The vector of a word with frequency p has the length `1e-3 / (1e-3 + p)`, so that frequent words have little weight
    in an average (Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings").

    Returns:
        the number of words.

    Raises:
        InvalidValue: the texts have fewer than two words.
    """
    counts: Counter[str] = Counter()
    documents = []
    for text in texts:
        words = WORD.findall(text.lower())
        counts.update(words)
        documents.append(words)
    names = [word for word, _ in counts.most_common(vocabulary)]
    if len(names) < 2:
        raise InvalidValue("There is too little text to learn words from.", "Give more text.")
    index = {word: i for i, word in enumerate(names)}
    contexts, width = min(contexts, len(names)), min(width, len(names))
    ids = np.concatenate([np.array([index.get(word, -1) for word in words] + GAP, np.int64) for words in documents])

    counted = np.zeros(len(names) * contexts, dtype=np.float32)
    for distance in range(1, REACH + 1):
        weight = 1.0 if distance <= NEAR else 0.7
        for word, context in ((ids[:-distance], ids[distance:]), (ids[distance:], ids[:-distance])):
            both = (word >= 0) & (context >= 0) & (context < contexts)
            cells = word[both] * contexts + context[both]
            counted += weight * np.bincount(cells, minlength=len(counted)).astype(np.float32)
    counted = counted.reshape(len(names), contexts)
    total = counted.sum()
    smoothed = counted.sum(0) ** 0.75
    expected = counted.sum(1, keepdims=True) * (smoothed / smoothed.sum())
    information = np.log(np.maximum(counted * (total / np.maximum(expected * total, 1e-9)), 1.0))

    values, axes = np.linalg.eigh(information.T @ information)
    values, axes = np.maximum(values[::-1][:width], 1e-6), axes[:, ::-1][:, :width]
    vectors = information @ axes / values**0.25
    vectors -= vectors.mean(0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    frequency = np.array([counts[name] for name in names]) / counts.total()
    largest = np.maximum(np.abs(vectors).max(1), 1e-9)
    rounded = np.round(vectors / largest[:, None] * 127).astype(np.int8)
    scale = (largest / 127 * 1e-3 / (1e-3 + frequency)).astype(np.float32)
    out.mkdir(parents=True, exist_ok=True)
    save_file({"vectors": np.ascontiguousarray(rounded), "scale": scale}, out / "words.safetensors", {"format": FORMAT})
    (out / "words.json").write_text(json.dumps(names, separators=(",", ":")) + "\n")
    return len(names)
