"""Judges: one small calibrated classifier per attribute, and one for toxicity, that score a text in [0, 1].

A judge is linear in four groups of features: hashed words and word pairs, hashed character n-grams (Weinberger et al.,
arXiv 0902.2206), an average of distributional word vectors, and a few measures of the surface such as the length of
sentences and lines. It shares neither form nor training texts with the anchors that it measures. Numpy only.
Knows nothing of language models, sliders or training.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from mixer.errors import BadArtifact, InvalidValue, UnknownName

FORMAT = "1"
BUCKETS = 1 << 15  # of each of the two hashed groups
LONGEST = 4000  # characters; of a longer text the end is scored, since that is what is being written
HINT = "Fetch assets/judges again, or make it with `python -m mixer train judges`."

TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9]|\n|[^\sa-z0-9]")
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
SENTENCE_END = re.compile(r"[.!?]+[\"')]*(?:\s|$)")
LONG_SUFFIX = re.compile(r"(?:tion|ment|ity|ness|ance|ence|ous|ive)s?$")
PERSON = frozenset(["i", "me", "my", "mine", "we", "us", "our", "you", "your", "yours"])
SURFACE = (
    "word length", "share of words of 7 letters and more", "share of words of 10 letters and more",
    "log words a sentence", "line breaks a word", "log words a line", "lines that begin with a capital",
    "exclamation marks", "question marks", "commas", "semicolons and colons", "double quotes", "dashes and ellipses",
    "contractions", "digits", "capitals", "distinct words", "first and second person", "-ed and -ing", "long suffixes",
)  # fmt: skip


@dataclass(frozen=True)
class Words:
    """Distributional word vectors `(V, K)`, each already weighted by how telling the word is, and their index."""

    index: Mapping[str, int]
    vectors: np.ndarray


@dataclass(frozen=True)
class Features:
    """What a judge sees of one text: bucket numbers with their values, `(S,)` surface measures, `(K,)` word average."""

    buckets: np.ndarray
    values: np.ndarray
    surface: np.ndarray
    words: np.ndarray


@lru_cache(maxsize=1 << 16)
def _hash(text: str) -> int:
    return zlib.crc32(text.encode()) % BUCKETS


def _character_hashes(text: str) -> np.ndarray:
    """FNV-like hashes of all runs of 2 to 5 bytes, in array arithmetic modulo 2^32: the same on every machine."""
    data = np.frombuffer(f" {text} ".encode("utf-8", "ignore"), dtype=np.uint8).astype(np.uint32)
    hashes = []
    for length in range(2, min(5, len(data)) + 1):
        count = len(data) - length + 1
        value = np.full(count, length * 40503, dtype=np.uint32)
        for offset in range(length):
            value = (value ^ data[offset : offset + count]) * np.uint32(16777619)
            value ^= value >> np.uint32(15)
        hashes.append(value % np.uint32(BUCKETS))
    return np.concatenate(hashes)


def _bag(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct buckets and the square roots of their counts, scaled so that the values' norm is 1."""
    buckets, counts = np.unique(hashes, return_counts=True)
    return buckets.astype(np.int64), np.sqrt(counts / max(1, len(hashes))).astype(np.float32)


def _surface(text: str, words: list[str]) -> np.ndarray:
    """`(S,)` float32, in the order of `SURFACE`."""
    count, characters = max(1, len(words)), max(1, len(text))
    lines = [line for line in text.split("\n") if line.strip()]
    lengths = np.array([len(word) for word in words] or [0])
    capital_lines = sum(line[:1].isupper() for line in lines) / len(lines) if len(lines) > 1 else 0.5
    return np.array(
        [
            lengths.mean(),
            (lengths >= 7).mean(),
            (lengths >= 10).mean(),
            np.log(count / max(1, len(SENTENCE_END.findall(text)))),
            10 * max(0, len(lines) - 1) / count,
            np.log1p(count / max(1, len(lines))),
            capital_lines,
            20 * text.count("!") / count,
            20 * text.count("?") / count,
            10 * text.count(",") / count,
            20 * (text.count(";") + text.count(":")) / count,
            10 * text.count('"') / count,
            20 * (text.count(" - ") + text.count("--") + text.count("—") + text.count("...")) / count,
            10 * sum("'" in word for word in words) / count,
            50 * sum(map(str.isdigit, text)) / characters,
            20 * sum(map(str.isupper, text)) / characters,
            len(set(words)) / count,
            10 * sum(word in PERSON for word in words) / count,
            10 * sum(word.endswith(("ed", "ing")) for word in words) / count,
            10 * sum(LONG_SUFFIX.search(word) is not None for word in words if len(word) > 6) / count,
        ],
        dtype=np.float32,
    )


def features(text: str, vocabulary: Words) -> Features:
    """The features of one text; a text longer than `LONGEST` characters counts by its end."""
    text = text[-LONGEST:].replace("’", "'").replace("“", '"').replace("”", '"')
    lower = text.lower()
    tokens, words = TOKEN.findall(lower), WORD.findall(lower)
    hashes = [_hash(token) for token in tokens] + [_hash(f"{a} {b}") for a, b in pairwise(tokens)]
    token_buckets, token_values = _bag(np.array(hashes, dtype=np.int64))
    character_buckets, character_values = _bag(_character_hashes(text))
    known = [vocabulary.index[word] for word in words if word in vocabulary.index]
    average = vocabulary.vectors[known].sum(0) / np.sqrt(max(1, len(known)))
    return Features(
        np.concatenate([token_buckets, character_buckets + BUCKETS]),
        np.concatenate([token_values, character_values]),
        _surface(text, words),
        average.astype(np.float32),
    )


@dataclass(frozen=True)
class Judge:
    """The weights of one classifier; the calibrated logit is `slope * raw + offset`."""

    ngrams: np.ndarray  # (2 * BUCKETS,)
    surface: np.ndarray  # (S,)
    center: np.ndarray  # (S,)
    scale: np.ndarray  # (S,)
    words: np.ndarray  # (K,)
    bias: float
    slope: float
    offset: float

    def logit(self, seen: Features) -> float:
        surface = np.clip((seen.surface - self.center) / self.scale, -3, 3)
        raw = self.ngrams[seen.buckets] @ seen.values + surface @ self.surface + seen.words @ self.words + self.bias
        return float(self.slope * raw + self.offset)


class Judges:
    """All judges of a folder. Scores lie in [0, 1], 1 at the positive pole; for toxicity 1 is toxic.

    A text without a single letter, digit or mark says nothing, and scores 0.5.
    """

    def __init__(self, judges: Mapping[str, Judge], vocabulary: Words) -> None:
        self.judges = dict(sorted(judges.items()))
        self.vocabulary = vocabulary

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.judges)

    def scores(self, text: str) -> dict[str, float]:
        """Every judge's score of one text; about a millisecond for a hundred words."""
        if not isinstance(text, str):
            raise InvalidValue(f"A judge reads text, not {type(text).__name__}.", "Pass a string.")
        if not text.strip():
            return dict.fromkeys(self.judges, 0.5)
        seen = features(text, self.vocabulary)
        return {name: _sigmoid(judge.logit(seen)) for name, judge in self.judges.items()}

    def score(self, name: str, texts: Sequence[str]) -> list[float]:
        """One judge's scores of several texts."""
        if name not in self.judges:
            raise UnknownName("judge", name, self.judges)
        one = Judges({name: self.judges[name]}, self.vocabulary)
        return [one.scores(text)[name] for text in texts]


def _sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))


def load_judges(folder: Path | str) -> Judges:
    """The judges of a folder: `words.json`, `words.safetensors` and one `NAME.safetensors` for each judge.

    Raises:
        BadArtifact: if the folder, a file or a tensor of it is missing, damaged, or of another shape.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadArtifact(f"There is no folder of judges at {folder}.", HINT)
    vocabulary = load_words(folder)
    width = vocabulary.vectors.shape[1]
    judges = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.stem == "words":
            continue
        shapes = {"ngrams": (2 * BUCKETS,), "words": (width,), "bias": (3,)}
        shapes |= dict.fromkeys(("surface", "center", "scale"), (len(SURFACE),))
        tensors = _read(path, shapes)
        bias, slope, offset = (float(value) for value in tensors.pop("bias"))
        judges[path.stem] = Judge(**tensors, bias=bias, slope=slope, offset=offset)
    if not judges:
        raise BadArtifact(f"{folder} holds no judge.", HINT)
    return Judges(judges, vocabulary)


def load_words(folder: Path) -> Words:
    """The word vectors that all judges of a folder share, int8 on disk."""
    path = folder / "words.json"
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path} cannot be read: {error}.", HINT) from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadArtifact(f"{path} is not a list of words.", HINT)
    tensors = _read(folder / "words.safetensors", {"vectors": (len(words), -1), "scale": (len(words),)})
    return Words({word: i for i, word in enumerate(words)}, tensors["vectors"] * tensors["scale"][:, None])


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The named tensors as float32; -1 in a shape stands for any size."""
    try:
        with safe_open(path, framework="numpy") as file:
            found = (file.metadata() or {}).get("format")
            if found != FORMAT:
                raise BadArtifact(f"{path} has the format {found!r} where {FORMAT!r} is read.", HINT)
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise BadArtifact(f"{path} cannot be read: {error}.", HINT) from error
    for name, shape in shapes.items():
        actual = tensors[name].shape
        if len(actual) != len(shape) or any(want not in (-1, got) for want, got in zip(shape, actual, strict=True)):
            raise BadArtifact(f"{name!r} in {path} has the shape {actual} where {shape} is read.", HINT)
        if not np.isfinite(tensors[name]).all():
            raise BadArtifact(f"{name!r} in {path} is not finite.", HINT)
    return tensors
