"""The base model's training data: its tokenizer, and blocks of token ids from a weighted mix of text sources.

Knows nothing of models or optimizers.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mixer.errors import BadArtifact
from mixer.training.data import is_clean, offensive_words, read_attribute, read_lines, read_pairs, split_of

END_OF_TEXT = "<|endoftext|>"
# Words with the space before them, single digits, runs of punctuation: the split of GPT-2, but with single digits.
PIECES = Regex(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

# Share of each source in the training tokens, chosen by reading samples. Fiction teaches plain language; the small
# sources teach the base some of what the anchors need.
MIX = {
    "fiction": 0.50,
    "wikipedia": 0.16,
    "dialogue": 0.11,
    "poetry": 0.06,
    "pairs": 0.06,
    "comments": 0.04,
    "stories": 0.03,
    "speech": 0.02,
    "sentences": 0.02,
}


def documents(data: Path, source: str) -> Iterator[str]:
    """The documents of one source of `MIX`; labelled texts are of the anchors' split alone."""
    if source in ("fiction", "wikipedia"):
        for line in read_lines(data / "pretrain" / f"{source}.jsonl.xz"):
            yield from passages(json.loads(line)["text"])
    elif source in ("dialogue", "stories"):
        for line in read_lines(data / "pretrain" / f"{source}.jsonl.xz"):
            yield json.loads(line)["text"]
    elif source == "sentences":
        # A single sentence is too short for a document: eight make one.
        lines = list(read_lines(data / "pretrain" / "sentences.txt.xz"))
        yield from (" ".join(lines[i : i + 8]) for i in range(0, len(lines), 8))
    elif source == "pairs":
        for path in sorted((data / "pairs").glob("*.jsonl.xz")):
            for pair in read_pairs(path):
                if split_of(pair.opening) == "anchor":
                    yield from (pair.positive, pair.negative)
    else:
        attribute_poles = {
            "poetry": [("poetry", "positive")],
            "comments": [("sentiment", "positive"), ("sentiment", "negative"), ("formality", "negative")],
            "speech": [("politeness", "positive"), ("politeness", "negative")],
        }[source]
        offensive = offensive_words(data)
        for attribute, pole in attribute_poles:
            for text in read_attribute(data, attribute, pole):
                if split_of(text) == "anchor" and is_clean(text, offensive):
                    yield text


def passages(text: str) -> Iterator[str]:
    """Cut a long text into passages of whole paragraphs, of at least 300 to 2,100 characters each.

    Each passage follows an end-of-text token, as a prompt does. With whole books, prose would hardly ever follow that
    token, and the model would continue every prompt like the short texts: as verse or as a comment.
    """
    passage: list[str] = []
    for paragraph in text.split("\n"):
        passage.append(paragraph)
        if sum(map(len, passage)) >= 300 + zlib.crc32(passage[0].encode()) % 1800:
            yield "\n".join(passage)
            passage = []
    if passage:
        yield "\n".join(passage)


def is_held_out(document: str) -> bool:
    """Whether a document is for measuring the model and not for training: about one in a hundred is."""
    return zlib.crc32(document[:2000].encode()) % 97 == 0


def train_tokenizer(data: Path, vocab_size: int, characters_a_source: int = 6_000_000) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which puts `<|endoftext|>` before every text, as in the training data."""

    def sample() -> Iterator[str]:
        for source in MIX:
            budget = characters_a_source
            for document in documents(data, source):
                # One passage in nine of the long sources, so that it is of many books and not of the first dozen.
                if source in ("fiction", "wikipedia") and zlib.crc32(document.encode()) % 9:
                    continue
                budget -= len(document)
                if budget < 0:
                    break
                yield document

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(PIECES, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


@dataclass(frozen=True)
class TokenizedSource:
    """The token ids of one source (uint16) in one array, with an end-of-text token before each document."""

    train: np.ndarray
    held_out: np.ndarray
    held_out_bytes: int


def tokenize_source(data: Path, source: str, tokenizer: PreTrainedTokenizerFast, cache: Path) -> TokenizedSource:
    """Token ids of a source, from the folder `cache` if an earlier run wrote them there.

    Raises:
        BadArtifact: the source has no training text.
    """
    path = cache / f"{source}.npz"
    if not path.is_file():
        train, held_out = [], []
        for document in documents(data, source):
            (held_out if is_held_out(document) else train).append(document)
        if not train:
            raise BadArtifact(f"The source {source!r} is empty.", f"Look at {data}.")
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            train=_flat_ids(train, tokenizer),
            held_out=_flat_ids(held_out, tokenizer),
            held_out_bytes=sum(len(document.encode()) for document in held_out),
        )
    with np.load(path, allow_pickle=False) as arrays:
        return TokenizedSource(arrays["train"], arrays["held_out"], int(arrays["held_out_bytes"]))


def _flat_ids(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    encodings = tokenizer.backend_tokenizer.encode_batch(texts)
    return np.concatenate([np.zeros(0, np.uint16), *(np.asarray(e.ids, np.uint16) for e in encodings)])


@dataclass
class RowSampler:
    """An endless stream of token blocks in the proportions of `shares`, which can be resumed from `drawn`.

    Each source is cut into blocks of `length` tokens. They are drawn in a seeded order; when all are drawn, they are
    drawn again in another order.

    Attributes:
        drawn: how many blocks of each source were drawn.
        orders: the order of blocks by source and epoch.
    """

    sources: dict[str, np.ndarray]
    shares: dict[str, float]
    length: int
    seed: int = 0
    drawn: dict[str, int] = field(default_factory=dict)
    orders: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    def next_rows(self, rows: int) -> np.ndarray:
        """Token ids `(rows, length + 1)`, int64."""
        return np.stack([self._next_row() for _ in range(rows)]).astype(np.int64)

    def _next_row(self) -> np.ndarray:
        # The next source is the one furthest behind its share: proportions are exact, and no random state is saved.
        total = sum(self.drawn.values()) + 1
        name = max(self.sources, key=lambda s: self.shares[s] * total - self.drawn.get(s, 0))
        ids, count = self.sources[name], self.drawn.get(name, 0)
        blocks = max(1, (len(ids) - 1) // self.length)
        epoch, index = divmod(count, blocks)
        self.drawn[name] = count + 1
        if (name, epoch) not in self.orders:
            rng = np.random.default_rng([self.seed, epoch, zlib.crc32(name.encode())])
            self.orders[name, epoch] = rng.permutation(blocks)
        start = int(self.orders[name, epoch][index]) * self.length
        return np.resize(ids[start : start + self.length + 1], self.length + 1)
