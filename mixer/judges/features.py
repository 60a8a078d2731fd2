"""Features of texts for linear judges: hashed words and word pairs, hashed character n-grams (Weinberger et al., arXiv
0902.2206), averaged word vectors, and surface measures such as the length of lines.

All features are computed from counts, and counts can be added. So if texts begin alike, as candidates for the next
token do, their common beginning is counted once, and only the rest is counted for each text. Numpy only. This module
knows nothing of judges.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

BUCKETS = 1 << 15  # for each of the two groups: words with word pairs, and character n-grams
LONGEST, STEP = 4000, 500  # characters; see `reading_start`
NGRAM_SIZES = range(2, 6)  # bytes in a character n-gram

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
TOKEN = re.compile(WORD.pattern + r"|[0-9]|\n|[^\sa-z0-9]")
SENTENCE_END = re.compile(r"[.!?]+[\"')]*(?:\s|$)")
LONG_SUFFIX = re.compile(r"(?:tion|ment|ity|ness|ance|ence|ous|ive)s?$")
PERSON = frozenset(["i", "me", "my", "mine", "we", "us", "our", "you", "your", "yours"])
# The last border of a text: between white space and a letter. A text can be counted in two parts there: only word pairs
# and character n-grams extend across a border, and `_Beginning` keeps what they need. Lower case does not extend across
# it either; that of a Greek sigma, for example, depends on the letters beside it.
LAST_BORDER = re.compile(r"(?s:.*)\s(?=\w)")
SURFACE = (
    "word length", "share of words of 7 letters and more", "share of words of 10 letters and more",
    "log words a sentence", "line breaks a word", "log words a line", "lines that begin with a capital",
    "exclamation marks", "question marks", "commas", "semicolons and colons", "double quotes", "dashes and ellipses",
    "contractions", "digits", "capitals", "distinct words", "first and second person", "-ed and -ing", "long suffixes",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Words:
    """Word vectors `(V, K)`, each already multiplied by its word's weight, and the word's row in them."""

    index: Mapping[str, int]
    vectors: np.ndarray


@dataclass(frozen=True)
class Features:
    """Features of N texts that begin alike.

    The value of an n-gram that occurs c times among the m n-grams of its group is sqrt(c / m). The buckets of the
    second group, the character n-grams, begin at `BUCKETS`.

    Attributes:
        shared: `(B,)`, buckets of the common beginning.
        roots: `(B,)`, square roots of their counts in the common beginning.
        scales: `(N, 2)`, 1 / sqrt(m) of each text and group.
        rows, buckets, values: `(M,)`, a text, a bucket that occurs in the rest of this text, and how much the rest
            raises the bucket's value. Without a common beginning, these are all buckets and values of the texts.
        surface: `(N, S)`, in the order of `SURFACE`.
        words: `(N, K)`, averaged word vectors.
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
        """Sums of the n-grams' values times their weights, `(N,)`.

        Args:
            ngrams: the weights, `(2 * BUCKETS,)`.
        """
        shared = np.bincount(self.shared // BUCKETS, ngrams[self.shared] * self.roots, minlength=2)
        return self.scales @ shared + np.bincount(self.rows, ngrams[self.buckets] * self.values, len(self.scales))


@dataclass(frozen=True)
class _Counts:
    """Counts of N pieces of text.

    Attributes:
        rows, buckets: `(M,)`, piece and bucket of every occurrence of an n-gram.
        tally: `(N, T)`, sums of `_text_counts` and `_word_counts`.
        known: `(N,)`, number of words that have a vector.
        vectors: `(N, K)`, sum of these vectors.
        tokens, words: of each piece in order, in lower case.
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
    """Counts of a text up to a border, and what counting needs to continue there.

    Attributes:
        counts: `(2 * BUCKETS,)`.
        buckets: `(B,)`, buckets whose count is not 0.
        tally: `(T,)`, as in `_Counts`; known and vectors too, `(K,)`.
        words: the distinct words.
        token: the last token; empty if there is none.
        lines: `_line_counts` of all lines but the last.
        line: the last line.
        end: the last bytes, which a character n-gram after the border may begin with.
    """

    counts: np.ndarray
    buckets: np.ndarray
    tally: np.ndarray
    known: int
    vectors: np.ndarray
    words: frozenset[str]
    token: str
    lines: tuple[int, int]
    line: str
    end: bytes


def reading_start(length: int) -> int:
    """The character at which reading starts in a text of `length` characters.

    Only the end of a text longer than `LONGEST` is read, because that is what is being written. The start moves in
    steps of `STEP` characters, so that candidates of different lengths still begin alike.
    """
    return STEP * max(0, -(-(length - LONGEST) // STEP))


def features(text: str, vocabulary: Words) -> Features:
    """The features of one text."""
    return features_after("", (text[reading_start(len(text)) :],), vocabulary)


@lru_cache(maxsize=2)  # several judges score the same texts
def features_after(text: str, endings: tuple[str, ...], vocabulary: Words) -> Features:
    """The features of `text + ending` for each of N endings. The whole text is read, however long."""
    text = _plain_quotes(text)
    border = LAST_BORDER.match(text)
    cut = border.end() if border else 0
    beginning = _beginning(text[:cut], vocabulary)
    pieces = [text[cut:] + _plain_quotes(ending) for ending in endings]
    rest = _count(pieces, vocabulary, beginning.token, beginning.end, b" ")

    keys, counts = np.unique(rest.rows * (2 * BUCKETS) + rest.buckets, return_counts=True)
    rows, buckets = np.divmod(keys, 2 * BUCKETS)
    groups = buckets // BUCKETS
    sizes = np.bincount(rows * 2 + groups, counts, 2 * len(pieces)).reshape(-1, 2)
    scales = 1 / np.sqrt(np.maximum(1, sizes + beginning.counts.reshape(2, BUCKETS).sum(1)))
    counts_before = beginning.counts[buckets]
    distinct = [len(beginning.words) + len(set(words) - beginning.words) for words in rest.words]
    lines = [_line_counts(beginning.line + piece) for piece in pieces]
    return Features(
        shared=beginning.buckets,
        roots=np.sqrt(beginning.counts[beginning.buckets]),
        scales=scales,
        rows=rows,
        buckets=buckets,
        values=(np.sqrt(counts_before + counts) - np.sqrt(counts_before)) * scales[rows, groups],
        surface=_surface(beginning.tally + rest.tally, np.array(distinct), np.array(beginning.lines) + lines),
        words=(beginning.vectors + rest.vectors) / np.sqrt(np.maximum(1, beginning.known + rest.known))[:, None],
    )


@lru_cache(maxsize=32)  # all tokens of a word have the same beginning, and several texts may grow at the same time
def _beginning(text: str, vocabulary: Words) -> _Beginning:
    counts = _count([text], vocabulary, "", b" ", b"")
    last_line = text.rfind("\n") + 1
    return _Beginning(
        np.bincount(counts.buckets, minlength=2 * BUCKETS),
        np.unique(counts.buckets),
        counts.tally[0],
        counts.known[0],
        counts.vectors[0],
        frozenset(counts.words[0]),
        counts.tokens[0][-1] if counts.tokens[0] else "",
        _line_counts(text[:last_line]),
        text[last_line:],
        (b" " + _bytes(text))[1 - NGRAM_SIZES[-1] :],
    )


def _count(pieces: list[str], vocabulary: Words, token: str, before: bytes, after: bytes) -> _Counts:
    """Counts of N pieces of text.

    Args:
        token: the last token before all pieces; empty if there is none.
        before: the last bytes before all pieces.
        after: appended to each piece for character n-grams.
    """
    tokens = [TOKEN.findall(piece.lower()) for piece in pieces]
    words = [[one for one in piece if WORD.match(one)] for piece in tokens]
    hashes = [
        [*map(_hash, piece), *(_hash(f"{a} {b}") for a, b in pairwise([token, *piece] if token else piece))]
        for piece in tokens
    ]
    hash_rows, word_rows = _list_numbers(hashes), _list_numbers(words)
    ngram_rows, ngram_buckets = _character_ngrams([_bytes(piece) + after for piece in pieces], before)
    all_words = [word for piece in words for word in piece]
    text_counts = np.array([_text_counts(piece) for piece in pieces], dtype=np.int64)
    word_counts = np.array([_word_counts(word) for word in all_words], dtype=np.int64)
    word_counts = word_counts.reshape(-1, len(_word_counts("")))
    index = np.array([vocabulary.index.get(word, -1) for word in all_words], dtype=np.int64)
    known_rows, index = word_rows[index >= 0], index[index >= 0]
    word_buckets = np.array([bucket for piece in hashes for bucket in piece], dtype=np.int64)
    return _Counts(
        np.concatenate([hash_rows, ngram_rows]),
        np.concatenate([word_buckets, ngram_buckets + BUCKETS]),
        np.concatenate([text_counts, _sums(word_counts, word_rows, len(pieces))], axis=1),
        np.bincount(known_rows, minlength=len(pieces)),
        _sums(vocabulary.vectors[index], known_rows, len(pieces)),
        tokens,
        words,
    )


def _list_numbers(lists: Sequence[Sequence]) -> np.ndarray:
    """For each item of all lists in order, the number of its list."""
    return np.repeat(np.arange(len(lists)), [len(items) for items in lists])


def _sums(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Sums of values `(M, ...)` by their row, `(n, ...)` float64; rows `(M,)` ascend."""
    sums = np.zeros((n, values.shape[1]))
    occurring, starts = np.unique(rows, return_index=True)
    if len(occurring):
        sums[occurring] = np.add.reduceat(values, starts, axis=0, dtype=np.float64)
    return sums


def _character_ngrams(pieces: list[bytes], before: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Piece and bucket, both `(M,)`, of all n-grams of bytes that end in a piece; they may begin in `before`.

    The hashes are FNV-like, in array arithmetic modulo 2^32, so they are the same on every machine.
    """
    piece_numbers = np.repeat(np.arange(len(pieces)), [len(before) + len(piece) for piece in pieces])
    data = np.frombuffer(b"".join(before + piece for piece in pieces), dtype=np.uint8).astype(np.uint32)
    in_piece = np.concatenate([np.arange(len(before) + len(piece)) >= len(before) for piece in pieces])
    rows, buckets = [], []
    for size in NGRAM_SIZES:
        value = np.full(max(0, len(data) - size + 1), size * 40503, dtype=np.uint32)
        for offset in range(size):
            value = (value ^ data[offset : offset + len(value)]) * np.uint32(16777619)
            value ^= value >> np.uint32(15)
        first, last = piece_numbers[: len(value)], piece_numbers[size - 1 :]
        kept = (first == last) & in_piece[size - 1 :]
        rows.append(first[kept])
        buckets.append(value[kept] % np.uint32(BUCKETS))
    return np.concatenate(rows), np.concatenate(buckets).astype(np.int64)


@lru_cache(maxsize=1 << 16)
def _hash(text: str) -> int:
    return zlib.crc32(_bytes(text)) % BUCKETS


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "ignore")


def _plain_quotes(text: str) -> str:
    return text.replace("’", "'").replace("“", '"').replace("”", '"')


def _text_counts(text: str) -> tuple[int, ...]:
    """Counts over a text, in the order in which `_surface` reads them."""
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
def _word_counts(word: str) -> tuple[int, ...]:
    """Counts over one word, in the order in which `_surface` reads them."""
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


def _line_counts(text: str) -> tuple[int, int]:
    """The number of lines that are not empty, and the number of these that begin with a capital."""
    lines = [line for line in text.split("\n") if line.strip()]
    return len(lines), sum(line[0].isupper() for line in lines)


def _surface(tally: np.ndarray, distinct: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """The surface measures, `(N, S)`.

    Args:
        tally: `(N, T)`; see `_Counts`.
        distinct: numbers of distinct words, `(N,)`.
        lines: `_line_counts` of each text, `(N, 2)`.
    """
    length, sentences, exclamations, questions, commas, colons, quotes, dashes, digits, capitals = tally.T[:10]
    words, word_letters, long, very_long, contractions, person, inflected, suffixes = tally.T[10:]
    count, characters, (full, capital_lines) = np.maximum(1, words), np.maximum(1, length), lines.T
    columns = (
        word_letters / count,
        long / count,
        very_long / count,
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
