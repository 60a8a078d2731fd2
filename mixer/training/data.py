"""Training text: where it lies, how it is split, and what is left out.

The folder layout is that of a `--data` directory:

    pretrain/NAME.{jsonl,txt}.xz        text for the base model
    attributes/NAME/{positive,negative}.txt.xz
    pairs/NAME.jsonl.xz                 {"opening", "positive", "negative"} a line
    NAME/pairs.jsonl                    the same, in a folder of anchors: pairs of an attribute of one's own

Every labelled text belongs to one of three splits, by a hash of its key. So anchors, judges and tests never share a
text, whatever the order or size of the files. Knows nothing of models or tokenizers.
"""

from __future__ import annotations

import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from mixer.errors import BadArtifact
from mixer.resources import PAIRS
from mixer.values.mix import POLES

Split = Literal["anchor", "judge", "test"]
ATTRIBUTES = ("sentiment", "formality", "politeness", "simplicity", "humor", "poetry", "archaic", "excitement")
TOXICITY = "toxicity"  # has labelled texts, but no pairs and no anchors
LABELLED = (*ATTRIBUTES, TOXICITY)
OWN_PAIRS = "pairs.jsonl"  # in an attribute's folder of anchors
PAIR_HINT = 'Each line is a JSON object with "opening", "positive" and "negative".'
# Unlike a word of `mixer.judges.features`, one may begin and end with apostrophes.
OFFENSIVE_WORD = re.compile(r"[a-z']+")


@dataclass(frozen=True)
class Pair:
    """Two texts of the same scene: both begin with `opening`, and they differ in one attribute alone."""

    opening: str
    positive: str
    negative: str


def split_of(key: str) -> Split:
    """60 % of keys belong to the anchors, 30 % to the judges, 10 % to the tests; stable across machines."""
    bucket = zlib.crc32(key.encode()) % 100
    return "anchor" if bucket < 60 else "judge" if bucket < 90 else "test"


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a text file, plain or xz-compressed, without their line breaks."""
    if not path.is_file():
        raise BadArtifact(f"There is no training text at {path}.", "Point --data at a folder that has it.")
    try:
        with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
            for line in file:
                yield line.rstrip("\n")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path} cannot be read: {error}.", "Fetch the file again.") from error


def read_pairs(path: Path) -> list[Pair]:
    """Parallel pairs from a `.jsonl` or `.jsonl.xz` file; an error names the line."""
    pairs = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            pairs.append(read_pair(line))
        except ValueError as error:
            raise BadArtifact(f"{path}, line {number} is not a pair: {error}.", PAIR_HINT) from error
    return pairs


def read_pair(line: str) -> Pair:
    """One line of a file of pairs.

    Raises:
        ValueError: it is none; the message says why, without the line.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    texts: list[str] = []
    for name in (field.name for field in fields(Pair)):
        text = record.get(name)
        if not isinstance(text, str):
            raise ValueError(f'it has no "{name}"' if text is None else f'its "{name}" is no text')
        texts.append(text)
    return Pair(*texts)


def read_attribute(data: Path, attribute: str, pole: str) -> list[str]:
    """Unpaired texts of one pole, in file order; empty if the folder has none."""
    path = data / "attributes" / attribute / f"{pole}.txt.xz"
    return [line.replace("\\n", "\n") for line in read_lines(path)] if path.is_file() else []


def offensive_words(data: Path, min_count: int = 4, min_ratio: float = 8.0) -> frozenset[str]:
    """Words that are frequent in toxic texts and rare in their neutral paraphrases, counted in the toxicity set.

    So the source code needs no list of offensive words, and the words follow the data when it changes.
    """
    counts = {pole: Counter() for pole in POLES}
    for pole in POLES:
        for text in read_attribute(data, TOXICITY, pole):
            counts[pole].update(set(OFFENSIVE_WORD.findall(text.lower())))
    toxic, neutral = counts["positive"], counts["negative"]
    return frozenset(word for word, n in toxic.items() if n >= min_count and n / (neutral[word] + 1) >= min_ratio)


def is_clean(text: str, offensive: frozenset[str]) -> bool:
    """Whether a text uses none of the offensive words."""
    return offensive.isdisjoint(OFFENSIVE_WORD.findall(text.lower()))


def find_pairs(data: Path | None, attribute: str, shipped: Path = PAIRS) -> list[Pair]:
    """The attribute's pairs from a data folder, or else those that ship in `anchors/pairs/ATTRIBUTE.jsonl`.

    Raises:
        BadArtifact: there are none in either place, or a line is not a pair.
    """
    own = [] if data is None else [data / "pairs" / f"{attribute}.jsonl.xz", data / attribute / OWN_PAIRS]
    return read_pairs(next((path for path in own if path.is_file()), shipped / f"{attribute}.jsonl"))


def attributes_with_pairs(data: Path | None, shipped: Path = PAIRS) -> tuple[str, ...]:
    """Names of all attributes that have pairs in a data folder or among those that ship, sorted."""
    names = {path.stem for path in shipped.glob("*.jsonl")}
    if data is not None:
        names |= {path.name.removesuffix(".jsonl.xz") for path in (data / "pairs").glob("*.jsonl.xz")}
        names |= {path.parent.name for path in data.glob(f"*/{OWN_PAIRS}")}
    return tuple(sorted(names))


def split_pairs(pairs: list[Pair], split: Split) -> list[Pair]:
    """The pairs of one split, keyed by their opening."""
    return [pair for pair in pairs if split_of(pair.opening) == split]
