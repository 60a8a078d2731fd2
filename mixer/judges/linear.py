"""Judges score a text in [0, 1]. The shipped ones, one for each attribute and one for toxicity, are linear.

A linear judge is a calibrated linear classifier over the features of `mixer.judges.features`. It is another kind of
model than the anchors that it measures, and was trained on other texts. This module knows nothing of language models,
sliders or training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mixer.errors import BadArtifact, InvalidValue, MixerError, UnknownName
from mixer.judges.features import BUCKETS, SURFACE, Features, Words, features_after, reading_start

FORMAT = "1"
HINT = "Fetch assets/judges again, or make it with `python -m mixer train judges`."
OWN_JUDGE = "judge.safetensors"  # in an attribute's folder of anchors
OWN_HINT = "Make it again with `python -m mixer train attribute`."
# Labels for the poles of judges that belong to no attribute: label -> judge, and the score that the label stands for.
LABELS = {"toxic": ("toxicity", 1.0), "nontoxic": ("toxicity", 0.0)}


class Scorer(Protocol):
    """Anything that scores texts."""

    def scores_after(self, text: str, endings: Sequence[str]) -> np.ndarray:
        """Scores of `text + ending` for each ending, `(N,)` float64 in [0, 1]."""
        ...


@dataclass(frozen=True)
class Judge:
    """The weights of one linear classifier.

    Attributes:
        ngrams: `(2 * BUCKETS,)`, weights of the hashed n-grams.
        surface: `(S,)`, weights of the surface measures, which are first standardized by center and scale, `(S,)`.
        words: `(K,)`, weights of the averaged word vector.
        bias: added to the raw logit.
        slope, offset: of the calibration; the calibrated logit is `slope * raw + offset`.
    """

    ngrams: np.ndarray
    surface: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    words: np.ndarray
    bias: float
    slope: float
    offset: float

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Judge:
        """The judge whose tensors these are, as its file has them."""
        parts = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        bias, slope, offset = map(float, parts.pop("bias"))
        return cls(**parts, bias=bias, slope=slope, offset=offset)

    def logits(self, texts: Features) -> np.ndarray:
        """Calibrated logits of N texts, `(N,)`."""
        surface = np.clip((texts.surface - self.center) / self.scale, -3, 3)
        raw = texts.weigh(self.ngrams) + surface @ self.surface + texts.words @ self.words + self.bias
        return self.slope * raw + self.offset


class Judges:
    """The linear judges of a folder, and other scorers that were added.

    Scores lie in [0, 1]; 1 is the positive pole, and for toxicity 1 is toxic. A linear judge scores a text of
    whitespace 0.5.
    """

    def __init__(self, judges: Mapping[str, Judge], vocabulary: Words) -> None:
        self.judges = dict(sorted(judges.items()))
        self.vocabulary = vocabulary
        self._added: dict[str, Scorer] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the linear judges and of the scorers that were added."""
        return (*self.judges, *self._added)

    @property
    def labels(self) -> dict[str, tuple[str, float]]:
        """Labels for the poles of these judges that belong to no attribute: label -> judge and goal."""
        return {label: (judge, goal) for label, (judge, goal) in LABELS.items() if judge in self.judges}

    def add(self, name: str, scorer: Scorer) -> None:
        """Add a scorer, which `scores_after` can then use by its name.

        Raises:
            InvalidValue: the name is empty, or a judge or a label has it already.
        """
        if not name or name in self.names or name in self.labels:
            raise InvalidValue(f"A judge cannot be called {name!r}.", "Choose a name that no judge and no label has.")
        self._added[name] = scorer

    def scores(self, text: str) -> dict[str, float]:
        """Every linear judge's score of one text, by name; takes about a millisecond for a hundred words."""
        return {name: float(self.scores_after(name, "", (text,))[0]) for name in self.judges}

    def score(self, name: str, texts: Sequence[str]) -> list[float]:
        """One judge's scores of several texts."""
        return [float(self.scores_after(name, "", (text,))[0]) for text in texts]

    def scores_after(self, name: str, text: str, endings: Sequence[str]) -> np.ndarray:
        """One judge's scores of `text + ending` for each ending, `(N,)` float64.

        The common beginning of the texts is read once, so 50 candidates for the next token cost little more than one.

        Raises:
            UnknownName: there is no such judge.
            InvalidValue: `text` or an ending is no string.
        """
        for one in (text, *endings):
            if not isinstance(one, str):
                raise InvalidValue(f"A judge reads text, not {type(one).__name__}.", "Pass a string.")
        if name in self._added:
            return self._added[name].scores_after(text, endings)
        if name not in self.judges:
            raise UnknownName("judge", name, self.names)
        scores = np.full(len(endings), 0.5)
        for rows, texts in self._features(text, endings):
            scores[rows] = 1 / (1 + np.exp(-np.clip(self.judges[name].logits(texts), -30, 30)))
        return scores

    def _features(self, text: str, endings: Sequence[str]) -> Iterator[tuple[list[int], Features]]:
        """Features of all texts but those of whitespace: one group for each place at which reading starts.

        Yields:
            the numbers of the group's endings, and the features of their texts.
        """
        groups: dict[int, list[int]] = {}
        for row, ending in enumerate(endings):
            if text.strip() or ending.strip():
                groups.setdefault(reading_start(len(text) + len(ending)), []).append(row)
        for start, rows in groups.items():
            group_endings = tuple(endings[row][max(0, start - len(text)) :] for row in rows)
            yield rows, features_after(text[start:], group_endings, self.vocabulary)


def load_judges(folder: Path | str) -> Judges:
    """Load the judges of a folder: `words.json`, `words.safetensors` and one `NAME.safetensors` for each judge.

    Raises:
        BadArtifact: the folder, a file or a tensor is missing or damaged, or a tensor has the wrong shape.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadArtifact(f"There is no folder of judges at {folder}.", HINT)
    vocabulary = load_words(folder)
    paths = [path for path in sorted(folder.glob("*.safetensors")) if path.stem != "words"]
    if not paths:
        raise BadArtifact(f"{folder} holds no judge.", HINT)
    return Judges({path.stem: _judge(path, vocabulary, HINT) for path in paths}, vocabulary)


def add_own_judges(judges: Judges, anchors: Path) -> tuple[Judges, list[MixerError]]:
    """The same judges and those in a folder of anchors, `ATTRIBUTE/judge.safetensors`, which go before them.

    Returns:
        the judges, and why some were left out: damaged, or trained with other word vectors.
    """
    found, problems = dict(judges.judges), list[MixerError]()
    for path in sorted(anchors.glob(f"*/{OWN_JUDGE}")):
        try:
            found[path.parent.name] = _judge(path, judges.vocabulary, OWN_HINT, words_digest(judges.vocabulary))
        except BadArtifact as error:
            problems.append(error)
    return Judges(found, judges.vocabulary), problems


def save_own_judge(tensors: Mapping[str, np.ndarray], home: Path, vocabulary: Words) -> None:
    """Write a judge into its attribute's folder of anchors, for `add_own_judges`."""
    home.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), home / OWN_JUDGE, {"format": FORMAT, "words": words_digest(vocabulary)})


def words_digest(vocabulary: Words) -> str:
    """16 hex digits that identify word vectors: a judge's weights mean nothing with others."""
    digest = hashlib.sha256("\n".join(vocabulary.index).encode())
    digest.update(np.ascontiguousarray(vocabulary.vectors, dtype=np.float32).tobytes())
    return digest.hexdigest()[:16]


def _judge(path: Path, vocabulary: Words, hint: str, words: str | None = None) -> Judge:
    """The judge in a file; where `words` is given, it must name these word vectors."""
    shapes = {"ngrams": (2 * BUCKETS,), "words": (vocabulary.vectors.shape[1],), "bias": (3,)}
    shapes |= dict.fromkeys(("surface", "center", "scale"), (len(SURFACE),))
    return Judge.of(_read(path, shapes, hint, words))


def load_words(folder: Path) -> Words:
    """Load the word vectors that all judges of a folder share; on disk they are int8.

    Raises:
        BadArtifact: a file is missing or damaged, or a tensor has the wrong shape.
    """
    path = folder / "words.json"
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path} cannot be read: {error}.", HINT) from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadArtifact(f"{path} is not a list of words.", HINT)
    tensors = _read(folder / "words.safetensors", {"vectors": (len(words), -1), "scale": (len(words),)})
    return Words({word: i for i, word in enumerate(words)}, tensors["vectors"] * tensors["scale"][:, None])


def _read(
    path: Path, shapes: Mapping[str, tuple[int, ...]], hint: str = HINT, words: str | None = None
) -> dict[str, np.ndarray]:
    """The tensors that `shapes` names, as float32; -1 in a shape stands for any size."""
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            if facts.get("format") != FORMAT:
                raise BadArtifact(f"{path} has the format {facts.get('format')!r} where {FORMAT!r} is read.", hint)
            if words is not None and facts.get("words") != words:
                raise BadArtifact(f"{path} was trained with other word vectors than those in use.", hint)
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise BadArtifact(f"{path} cannot be read: {error}.", hint) from error
    for name, shape in shapes.items():
        actual = tensors[name].shape
        if len(actual) != len(shape) or any(want not in (-1, got) for want, got in zip(shape, actual, strict=True)):
            raise BadArtifact(f"{name!r} in {path} has the shape {actual} where {shape} is read.", hint)
        if not np.isfinite(tensors[name]).all():
            raise BadArtifact(f"{name!r} in {path} is not finite.", hint)
    return tensors
