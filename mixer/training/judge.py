"""Training of the judges, on the texts of the `judge` split alone, and their measures on the `test` split.

The parallel pairs have most of the weight: both texts of a pair tell the same scene and differ in the attribute alone,
while unpaired texts also differ in topic and origin. A judge learns from whole texts and from windows of them, since it
also reads text that is still being written. Logits are calibrated by cross-fitting (Platt 1999): each text's logit is
from weights that were fitted without it. Knows nothing of language models.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tqdm import tqdm

from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.judges.features import BUCKETS, SURFACE, Features, Words, features
from mixer.judges.linear import FORMAT, Judge, Judges, load_judges, load_words
from mixer.resources import JUDGES
from mixer.training.data import (
    ATTRIBUTES,
    LABELLED,
    TOXICITY,
    Pair,
    find_pairs,
    read_attribute,
    split_of,
    split_pairs,
)
from mixer.training.word_vectors import plain_texts, train_words
from mixer.values.mix import POLES

# Weight of all unpaired texts relative to that of all pairs, chosen by accuracy on pairs of the anchors' split.
# Sentiment needs the words of unpaired texts most; jokes and headlines say little about a comic scene.
UNPAIRED_SHARES = {"sentiment": 0.5, "humor": 0.1}
OTHER_SHARE = 0.25
# Factors on the weights of each group of features: they all have one learning rate, and these scale its effect.
NGRAM_GAIN, WORD_GAIN, SURFACE_GAIN = 3.0, 3.0, 0.3


@dataclass(frozen=True)
class JudgeConfig:
    """How a judge is trained; `unpaired_share` overrides `UNPAIRED_SHARES`."""

    unpaired_share: float | None = None
    unpaired_texts: int = 3000  # of each pole
    windows: int = 4  # of each text of a pair
    epochs: int = 10
    rows: int = 256
    lr: float = 0.02
    decay: float = 1e-3
    dropout: float = 0.3
    folds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 2 or self.epochs < 1 or self.rows < 1:
            raise InvalidValue("A judge needs at least 2 folds, 1 epoch and 1 row.", "Raise the number that is lower.")


@dataclass(frozen=True)
class JudgeExample:
    """A text or a window of one; examples with the same `key` are in the same fold."""

    text: str
    label: int
    key: str
    weight: float


def window(text: str, rng: np.random.Generator, shortest: int = 8) -> str:
    """A part of a text at random: some consecutive words, with the line breaks between them."""
    words = list(re.finditer(r"\S+", text))
    if len(words) <= shortest:
        return text
    first = int(rng.integers(0, max(1, len(words) // 3)))
    last = int(rng.integers(min(len(words) - 1, first + shortest), len(words)))
    return text[words[first].start() : words[last].end()]


def examples(
    name: str, pairs: Sequence[Pair], unpaired: dict[str, list[str]], config: JudgeConfig
) -> list[JudgeExample]:
    """Labelled texts and windows of them; both poles have the same total weight."""
    rng = np.random.default_rng([config.seed, zlib.crc32(name.encode())])
    found = []
    for pair in pairs:
        for label, text in ((0, pair.negative), (1, pair.positive)):
            found.append(JudgeExample(text, label, pair.opening, 1.0))
            found.append(JudgeExample(text[len(pair.opening) :].strip(), label, pair.opening, 1.0))
            found += [JudgeExample(window(text, rng), label, pair.opening, 1.0) for _ in range(config.windows - 1)]
    share = UNPAIRED_SHARES.get(name, OTHER_SHARE) if config.unpaired_share is None else config.unpaired_share
    total = len(found) * share if found else 2.0
    for label, pole in enumerate(POLES):
        texts = unpaired.get(pole, [])
        chosen = rng.permutation(len(texts))[: config.unpaired_texts]
        found += [JudgeExample(window(texts[i], rng), label, texts[i], total / 2 / len(chosen)) for i in chosen]
    return found


def toxicity_examples(unpaired: dict[str, list[str]], pairs: list[Pair], config: JudgeConfig) -> list[JudgeExample]:
    """Examples for the toxicity judge, whose own set is in lower case: pairs as neutral texts have capitals in them."""
    rng = np.random.default_rng([config.seed, 1])
    found = examples(TOXICITY, (), unpaired, config)
    weight = 1.0 / max(1, len(pairs)) / 2
    for pair in pairs:
        for text in (pair.positive, pair.negative):
            found.append(JudgeExample(window(text, rng), 0, pair.opening, weight))
    return found


def fit(
    seen: Sequence[Features], labels: np.ndarray, weights: np.ndarray, config: JudgeConfig
) -> dict[str, np.ndarray]:
    """The tensors of an uncalibrated judge, by Adam on the weighted logistic loss with decay."""
    surface = np.concatenate([f.surface for f in seen])
    center = np.average(surface, axis=0, weights=weights)
    scale = np.sqrt(np.average((surface - center) ** 2, axis=0, weights=weights)) + 1e-2
    surfaces = torch.from_numpy(np.clip((surface - center) / scale, -3, 3).astype(np.float32))
    words = torch.from_numpy(np.concatenate([f.words for f in seen]).astype(np.float32))
    targets = torch.from_numpy(labels.astype(np.float32))
    shares = torch.from_numpy((weights / weights.mean()).astype(np.float32))

    generator = torch.Generator().manual_seed(config.seed)
    ngram = torch.zeros(2 * BUCKETS, 1, requires_grad=True)
    word = torch.zeros(words.shape[1], requires_grad=True)
    plain = torch.zeros(len(SURFACE), requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    parameters = [ngram, word, plain, bias]
    optimizer = torch.optim.Adam(parameters, lr=config.lr)
    batches = -(-len(seen) // config.rows)
    for step in range(config.epochs * batches):
        if step % batches == 0:
            order = torch.randperm(len(seen), generator=generator).numpy()
        rows = order[step % batches * config.rows :][: config.rows]
        ids = torch.from_numpy(np.concatenate([seen[i].buckets for i in rows]))
        values = torch.from_numpy(np.concatenate([seen[i].values for i in rows]).astype(np.float32))
        values = values * (torch.rand(values.shape, generator=generator) >= config.dropout) / (1 - config.dropout)
        starts = torch.from_numpy(np.cumsum([0, *(len(seen[i].buckets) for i in rows[:-1])]))
        grams = torch.nn.functional.embedding_bag(ids, ngram, starts, mode="sum", per_sample_weights=values)[:, 0]
        logits = NGRAM_GAIN * grams + WORD_GAIN * words[rows] @ word + SURFACE_GAIN * surfaces[rows] @ plain + bias
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets[rows], reduction="none")
        decay = sum((parameter**2).sum() for parameter in (ngram, word, plain))
        loss = (losses * shares[rows]).mean() + config.decay * decay
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = config.lr * (1 - step / (config.epochs * batches))
        optimizer.step()
    return {
        "ngrams": (NGRAM_GAIN * ngram.detach()[:, 0]).numpy().astype(np.float16),
        "words": (WORD_GAIN * word.detach()).numpy(),
        "surface": (SURFACE_GAIN * plain.detach()).numpy(),
        "center": center.astype(np.float32),
        "scale": scale.astype(np.float32),
        "bias": np.array([bias.item(), 1.0, 0.0], dtype=np.float32),
    }


def raw_logits(tensors: dict[str, np.ndarray], seen: Sequence[Features]) -> np.ndarray:
    """Logits `(N,)` before calibration, by the arithmetic of `mixer.judges.linear.Judge`."""
    bias = float(tensors["bias"][0])
    parts = {name: tensors[name].astype(np.float32) for name in ("ngrams", "surface", "center", "scale", "words")}
    judge = Judge(**parts, bias=bias, slope=1.0, offset=0.0)
    return np.concatenate([judge.logits(f) for f in seen])


def platt(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Slope and offset with which `sigmoid(slope * logit + offset)` is a calibrated probability, by Newton's method."""
    inputs = np.stack([logits, np.ones_like(logits)], axis=1)
    solution = np.array([1.0, 0.0])
    for _ in range(50):
        probabilities = 1 / (1 + np.exp(-np.clip(inputs @ solution, -30, 30)))
        gradient = inputs.T @ (weights * (probabilities - labels)) + 1e-4 * (solution - [1.0, 0.0])
        curvature = (inputs.T * (weights * probabilities * (1 - probabilities))) @ inputs + 1e-4 * np.eye(2)
        change = np.linalg.solve(curvature, gradient)
        solution = solution - np.clip(change, -1, 1)
        if np.abs(change).max() < 1e-6:
            break
    return max(float(solution[0]), 1e-3), float(solution[1])


def measures(positive: np.ndarray, negative: np.ndarray) -> dict[str, float | int]:
    """Accuracy at 0.5 with equal weight of both poles, area under the ROC curve, calibration error in ten bins, n.

    Args:
        positive, negative: scores of the texts of each pole.
    """
    scores = np.concatenate([positive, negative])
    labels = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    bins = np.minimum((scores * 10).astype(int), 9)
    error = sum(abs(scores[bins == b].mean() - labels[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    above = (positive[:, None] > negative[None]).mean() + 0.5 * (positive[:, None] == negative[None]).mean()
    return {
        "accuracy": round(float((positive > 0.5).mean() + (negative < 0.5).mean()) / 2, 4),
        "auc": round(float(above), 4),
        "calibration_error": round(float(error), 4),
        "n": len(scores),
    }


def evaluate_judge(name: str, judges: Judges, data: Path | None, most: int = 1000) -> dict:
    """Measures on the `test` split: of whole pairs, of windows of them (8 words and more), and of unpaired texts."""
    report: dict[str, dict] = {}

    def score(texts: Sequence[str]) -> np.ndarray:
        return np.array(judges.score(name, texts))

    if name in ATTRIBUTES:
        rng = np.random.default_rng(0)
        pairs = split_pairs(find_pairs(data, name), "test")
        positive, negative = score([p.positive for p in pairs]), score([p.negative for p in pairs])
        ordered = {"positive_scores_higher": round(float((positive > negative).mean()), 4)}
        report["pairs"] = measures(positive, negative) | ordered
        cut = [(window(p.positive, rng), window(p.negative, rng)) for p in pairs]
        report["pairs_in_windows"] = measures(score([p for p, _ in cut]), score([n for _, n in cut]))
    elif data is not None or name == TOXICITY:
        texts = [
            t for a in ATTRIBUTES for p in split_pairs(find_pairs(data, a), "test") for t in (p.positive, p.negative)
        ]
        report["pairs"] = {"share_called_toxic": round(float((score(texts) > 0.5).mean()), 4), "n": len(texts)}
    if data is not None:
        poles = [[t for t in read_attribute(data, name, pole) if split_of(t) == "test"][:most] for pole in POLES]
        if all(poles):
            report["unpaired"] = measures(score(poles[1]), score(poles[0]))
    return report


def train_judge(name: str, data: Path | None, out: Path, config: JudgeConfig | None = None) -> dict:
    """Train, calibrate and measure one judge, and write `out/NAME.safetensors`.

    The word vectors of `out` are used; if it has none, the shipped ones are copied there. Without `data/attributes`
    the shipped pairs are used, which is enough for every judge except toxicity's.

    Raises:
        UnknownName: there is no such judge. BadArtifact: texts or word vectors are missing. InvalidValue: too few
        texts.
    """
    if name not in LABELLED:
        raise UnknownName("judge", name, LABELLED)
    config = config or JudgeConfig()
    vocabulary = _words(out)
    unpaired = {p: [t for t in read_attribute(data, name, p) if split_of(t) == "judge"] for p in POLES} if data else {}
    if name == TOXICITY:
        if not all(unpaired.get(pole) for pole in POLES):
            raise BadArtifact("There are no toxicity texts to learn from.", "Point --data at a folder that has them.")
        neutral = [pair for a in ATTRIBUTES for pair in split_pairs(find_pairs(data, a), "judge")]
        texts = toxicity_examples(unpaired, neutral, config)
    else:
        texts = examples(name, split_pairs(find_pairs(data, name), "judge"), unpaired, config)
    tensors = train_on(texts, vocabulary, config)
    save_file(tensors, out / f"{name}.safetensors", {"format": FORMAT})
    return evaluate_judge(name, load_judges(out), data) | {"texts": len(texts), "config": asdict(config)}


def train_on(texts: Sequence[JudgeExample], vocabulary: Words, config: JudgeConfig) -> dict[str, np.ndarray]:
    """The calibrated tensors of a judge, from labelled texts."""
    texts = [text for text in texts if text.text.strip()]
    seen = [features(text.text, vocabulary) for text in texts]
    labels, weights = np.array([t.label for t in texts]), np.array([t.weight for t in texts])
    folds = np.array([zlib.crc32(t.key.encode(), 7) % config.folds for t in texts])
    held_out = np.zeros(len(texts))
    for fold in np.unique(folds):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(inside) == 0:
            raise InvalidValue("There are too few texts to train a judge.", "Give at least two different ones a pole.")
        part = fit([seen[i] for i in inside], labels[inside], weights[inside], config)
        held_out[outside] = raw_logits(part, [seen[i] for i in outside])
    tensors = fit(seen, labels, weights, config)
    tensors["bias"][1:] = platt(held_out, labels, weights / weights.mean())
    return tensors


def _words(out: Path) -> Words:
    out.mkdir(parents=True, exist_ok=True)
    for name in ("words.json", "words.safetensors"):
        if not (out / name).is_file():
            try:
                (out / name).write_bytes((JUDGES / name).read_bytes())
            except OSError as error:
                raise BadArtifact(f"There are no word vectors in {out}: {error}.", "Run train_words first.") from error
    return load_words(out)


def train_judges(data: Path | None, out: Path, config: JudgeConfig | None = None) -> dict[str, dict]:
    """Train all judges and, where there is plain text, their word vectors; also writes `out/report.json`."""
    if data is not None and (data / "pretrain").is_dir():
        train_words(plain_texts(data), out)
    has_toxicity = data is not None and (data / "attributes" / TOXICITY).is_dir()
    report = {}
    with tqdm(LABELLED if has_toxicity else ATTRIBUTES, file=sys.stderr, unit="judge") as bar:
        for name in bar:
            bar.set_description(name)
            report[name] = train_judge(name, data, out, config)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report
