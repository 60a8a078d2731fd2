"""What a linear judge sees of a text: hashed words and word pairs, hashed character n-grams (Weinberger et al., arXiv
0902.2206), an average of distributional word vectors, and a few measures of the surface such as the length of lines.

All of it is made of counts, and counts add up. Texts that begin alike, as the candidates for a next token do, are read
once up to the last word that they share; only what follows is read for each. Numpy only. Knows nothing of judges.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

BUCKETS = 1 << 15  # of each of the two hashed groups
LONGEST, STEP = 4000, 500  # characters
RUNS = range(2, 6)  # bytes in a character n-gram

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
TOKEN = re.compile(WORD.pattern + r"|[0-9]|\n|[^\sa-z0-9]")
SENTENCE_END = re.compile(r"[.!?]+[\"')]*(?:\s|$)")
LONG_SUFFIX = re.compile(r"(?:tion|ment|ity|ness|ance|ence|ous|ive)s?$")
PERSON = frozenset(["i", "me", "my", "mine", "we", "us", "our", "you", "your", "yours"])
# The last place that nothing counted reaches across: between a space and a letter. Lower case does not either, though
# that of a Greek sigma depends on the letters beside it.
LAST_BORDER = re.compile(r"(?s:.*)\s(?=\w)")
SURFACE = (
    "word length", "share of words of 7 letters and more", "share of words of 10 letters and more",
    "log words a sentence", "line breaks a word", "log words a line", "lines that begin with a capital",
    "exclamation marks", "question marks", "commas", "semicolons and colons", "double quotes", "dashes and ellipses",
    "contractions", "digits", "capitals", "distinct words", "first and second person", "-ed and -ing", "long suffixes",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Words:
    """Distributional word vectors `(V, K)`, each already weighted by how telling the word is, and their index."""

    index: Mapping[str, int]
    vectors: np.ndarray


@dataclass(frozen=True)
class Features:
    """What a judge sees of N texts that begin alike.

    The value of an n-gram that occurs c times among the m of its group is sqrt(c / m). The buckets of the second group,
    the character n-grams, begin at `BUCKETS`.

    Attributes:
        shared, roots: `(B,)` the buckets of the common beginning, and the square roots of their counts there.
        scales: `(N, 2)` 1 / sqrt(m) of each text and group.
        rows, buckets, values: `(M,)` a text, a bucket of what follows in it, and by how much that raises its value. A
            text with nothing in common has all its buckets and values here.
        surface: `(N, S)`, in the order of `SURFACE`.
        words: `(N, K)` averages of word vectors.
    """

    shared: np.ndarray
    roots: np.ndarray
    scales: np.ndarray
    rows: np.ndarray
    buckets: np.ndarray
    values: np.ndarray
    surface: np.ndarray
    words: np.ndarray

    def weigh(self, ngrams: np.ndarray) -> np.ndarray:
        """`(N,)` sums of the n-grams' values times their weights, `(2 * BUCKETS,)`."""
        shared = np.bincount(self.shared // BUCKETS, ngrams[self.shared] * self.roots, minlength=2)
        return self.scales @ shared + np.bincount(self.rows, ngrams[self.buckets] * self.values, len(self.scales))


@dataclass(frozen=True)
class _Counts:
    """What N pieces of text hold.

    Attributes:
        rows, buckets: `(M,)` piece and bucket of every n-gram, as often as it occurs.
        tally: `(N, T)` by `_of_text` and `_of_word`.
        known: `(N,)` how many words have a vector.
        vectors: `(N, K)` the sum of these.
        tokens, words: of each piece in order, lower case.
    """

    rows: np.ndarray
    buckets: np.ndarray
    tally: np.ndarray
    known: np.ndarray
    vectors: np.ndarray
    tokens: list[list[str]]
    words: list[list[str]]


@dataclass(frozen=True)
class _Beginning:
    """What the text up to a border holds, and what is needed to read on from there."""

    counts: np.ndarray  # (2 * BUCKETS,)
    buckets: np.ndarray  # (B,), those that are counted
    tally: np.ndarray  # (T,)
    known: int
    vectors: np.ndarray  # (K,)
    words: frozenset[str]
    token: str  # the last one, if any
    lines: tuple[int, int]  # but for the last one
    line: str  # the last one
    end: bytes  # as far as a character n-gram reaches back


def reading_start(length: int) -> int:
    """Where reading begins in a text of so many characters.

    Of a text longer than `LONGEST` the end counts, since that is what is being written. The place moves in steps, so
    that candidates of different lengths still begin alike.
    """
    return STEP * max(0, -(-(length - LONGEST) // STEP))


def features(text: str, vocabulary: Words) -> Features:
    """The features of one text."""
    return features_after("", (text[reading_start(len(text)) :],), vocabulary)


@lru_cache(maxsize=2)  # several judges look at the same texts
def features_after(text: str, endings: tuple[str, ...], vocabulary: Words) -> Features:
    """The features of `text + ending` for each of N endings; all of it is read, however long."""
    text = _plain(text)
    border = LAST_BORDER.match(text)
    cut = border.end() if border else 0
    before = _begin(text[:cut], vocabulary)
    pieces = [text[cut:] + _plain(ending) for ending in endings]
    own = _count(pieces, vocabulary, before.token, before.end, b" ")

    keys, counts = np.unique(own.rows * (2 * BUCKETS) + own.buckets, return_counts=True)
    rows, buckets = np.divmod(keys, 2 * BUCKETS)
    groups = buckets // BUCKETS
    sizes = np.bincount(rows * 2 + groups, counts, 2 * len(pieces)).reshape(-1, 2)
    scales = 1 / np.sqrt(np.maximum(1, sizes + before.counts.reshape(2, BUCKETS).sum(1)))
    former = before.counts[buckets]
    distinct = [len(before.words) + len(set(words) - before.words) for words in own.words]
    lines = [_lines(before.line + piece) for piece in pieces]
    return Features(
        shared=before.buckets,
        roots=np.sqrt(before.counts[before.buckets]),
        scales=scales,
        rows=rows,
        buckets=buckets,
        values=(np.sqrt(former + counts) - np.sqrt(former)) * scales[rows, groups],
        surface=_surface(before.tally + own.tally, np.array(distinct), np.array(before.lines) + lines),
        words=(before.vectors + own.vectors) / np.sqrt(np.maximum(1, before.known + own.known))[:, None],
    )


@lru_cache(maxsize=32)  # the tokens of a word share it, and several texts may grow in turn
def _begin(text: str, vocabulary: Words) -> _Beginning:
    own = _count([text], vocabulary, "", b" ", b"")
    last_line = text.rfind("\n") + 1
    return _Beginning(
        np.bincount(own.buckets, minlength=2 * BUCKETS),
        np.unique(own.buckets),
        own.tally[0],
        own.known[0],
        own.vectors[0],
        frozenset(own.words[0]),
        own.tokens[0][-1] if own.tokens[0] else "",
        _lines(text[:last_line]),
        text[last_line:],
        (b" " + _bytes(text))[1 - RUNS[-1] :],
    )


def _count(pieces: list[str], vocabulary: Words, token: str, before: bytes, after: bytes) -> _Counts:
    """What is in pieces of text that all follow `before`, whose last token is `token`, and end with `after`."""
    tokens = [TOKEN.findall(piece.lower()) for piece in pieces]
    words = [[one for one in own if WORD.match(one)] for own in tokens]
    hashes = [
        [*map(_hash, own), *(_hash(f"{a} {b}") for a, b in pairwise([token, *own] if token else own))] for own in tokens
    ]
    of_hash, of_word = _owners(hashes), _owners(words)
    of_run, runs = _character_runs([_bytes(piece) + after for piece in pieces], before)
    flat = [word for own in words for word in own]
    tally = np.array([_of_text(piece) for piece in pieces], dtype=np.int64)
    shapes = np.array([_of_word(word) for word in flat], dtype=np.int64).reshape(-1, len(_of_word("")))
    index = np.array([vocabulary.index.get(word, -1) for word in flat], dtype=np.int64)
    of_known, index = of_word[index >= 0], index[index >= 0]
    return _Counts(
        np.concatenate([of_hash, of_run]),
        np.concatenate([np.array([one for own in hashes for one in own], dtype=np.int64), runs + BUCKETS]),
        np.concatenate([tally, _sums(shapes, of_word, len(pieces))], axis=1),
        np.bincount(of_known, minlength=len(pieces)),
        _sums(vocabulary.vectors[index], of_known, len(pieces)),
        tokens,
        words,
    )


def _owners(lists: Sequence[Sequence]) -> np.ndarray:
    """For each item of all lists in turn, the number of its list."""
    return np.repeat(np.arange(len(lists)), [len(own) for own in lists])


def _sums(values: np.ndarray, owners: np.ndarray, n: int) -> np.ndarray:
    """`(n, ...)` float64 sums of the values `(M, ...)` of each owner; owners `(M,)` ascend."""
    sums = np.zeros((n, values.shape[1]))
    rows, starts = np.unique(owners, return_index=True)
    if len(rows):
        sums[rows] = np.add.reduceat(values, starts, axis=0, dtype=np.float64)
    return sums


def _character_runs(pieces: list[bytes], before: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Piece and bucket, both `(M,)`, of all runs of bytes that end in a piece; they may begin in `before`.

    The hashes are FNV-like, in array arithmetic modulo 2^32: the same on every machine.
    """
    owner = np.repeat(np.arange(len(pieces)), [len(before) + len(piece) for piece in pieces])
    data = np.frombuffer(b"".join(before + piece for piece in pieces), dtype=np.uint8).astype(np.uint32)
    ends = np.concatenate([np.arange(len(before) + len(piece)) >= len(before) for piece in pieces])
    owners, buckets = [], []
    for length in RUNS:
        value = np.full(max(0, len(data) - length + 1), length * 40503, dtype=np.uint32)
        for offset in range(length):
            value = (value ^ data[offset : offset + len(value)]) * np.uint32(16777619)
            value ^= value >> np.uint32(15)
        first, last = owner[: len(value)], owner[length - 1 :]
        whole = (first == last) & ends[length - 1 :]
        owners.append(first[whole])
        buckets.append(value[whole] % np.uint32(BUCKETS))
    return np.concatenate(owners), np.concatenate(buckets).astype(np.int64)


@lru_cache(maxsize=1 << 16)
def _hash(text: str) -> int:
    return zlib.crc32(_bytes(text)) % BUCKETS


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "ignore")


def _plain(text: str) -> str:
    return text.replace("’", "'").replace("“", '"').replace("”", '"')


def _of_text(text: str) -> tuple[int, ...]:
    return (
        len(text),
        len(SENTENCE_END.findall(text)),
        text.count("!"),
        text.count("?"),
        text.count(","),
        text.count(";") + text.count(":"),
        text.count('"'),
        text.count(" - ") + text.count("--") + text.count("—") + text.count("..."),
        sum(map(str.isdigit, text)),
        sum(map(str.isupper, text)),
    )


@lru_cache(maxsize=1 << 14)
def _of_word(word: str) -> tuple[int, ...]:
    length = len(word)
    return (
        1,
        length,
        length >= 7,
        length >= 10,
        "'" in word,
        word in PERSON,
        word.endswith(("ed", "ing")),
        length > 6 and LONG_SUFFIX.search(word) is not None,
    )


def _lines(text: str) -> tuple[int, int]:
    """How many lines are not empty, and how many of these begin with a capital."""
    lines = [line for line in text.split("\n") if line.strip()]
    return len(lines), sum(line[0].isupper() for line in lines)


def _surface(tally: np.ndarray, distinct: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """`(N, S)` from `(N, T)` counts, `(N,)` numbers of distinct words, and `(N, 2)` by `_lines`."""
    letters, sentences, exclamations, questions, commas, colons, quotes, dashes, digits, capitals = tally.T[:10]
    words, word_letters, long, longest, contractions, person, inflected, suffixes = tally.T[10:]
    count, characters, (full, capital_lines) = np.maximum(1, words), np.maximum(1, letters), lines.T
    columns = (
        word_letters / count,
        long / count,
        longest / count,
        np.log(count / np.maximum(1, sentences)),
        10 * np.maximum(0, full - 1) / count,
        np.log1p(count / np.maximum(1, full)),
        np.where(full > 1, capital_lines / np.maximum(1, full), 0.5),
        20 * exclamations / count,
        20 * questions / count,
        10 * commas / count,
        20 * colons / count,
        10 * quotes / count,
        20 * dashes / count,
        10 * contractions / count,
        50 * digits / characters,
        20 * capitals / characters,
        distinct / count,
        10 * person / count,
        10 * inflected / count,
        10 * suffixes / count,
    )
    return np.stack(columns, axis=1)
