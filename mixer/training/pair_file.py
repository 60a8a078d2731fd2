"""A file of pairs that somebody wrote, checked before anything is trained on it: errors by line, and warnings.

Knows files and texts; nothing of models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixer.errors import BadArtifact
from mixer.training.data import PAIR_HINT, Pair, read_lines, read_pair, split_of

FEWEST, FEW = 20, 100  # pairs below which a file is refused, and below which it is warned of
LEAST = {"anchor": 8, "judge": 4}  # pairs in a split
SHOWN = 5  # errors of one file that are told
MOST_RATIO = 1.5  # of the mean numbers of words of the two poles
HINTS = f"{PAIR_HINT} Both texts begin with the opening and differ behind it."


@dataclass(frozen=True)
class PairFile:
    """The pairs of a sound file, and what its writer should know, one sentence each."""

    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]

    @property
    def splits(self) -> dict[str, int]:
        """How many pairs fall to the anchors, the judge and the tests."""
        counts = Counter(split_of(pair.opening) for pair in self.pairs)
        return {split: counts[split] for split in ("anchor", "judge", "test")}


def check_pairs(path: Path) -> PairFile:
    """Read and check a file of pairs, plain or xz-compressed. Lines that are empty are passed over.

    Raises:
        BadArtifact: the file cannot be read, lines are no pairs or the same as others, or there are too few pairs. The
            message names the first lines that are wrong.
    """
    numbered, faults = dict[int, Pair](), list[str]()
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            numbered[number] = read_pair(line)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        faults += (f"line {number}: {fault}" for fault in _faults(numbered[number]))
    faults += _repeated(numbered)
    if faults:
        rest = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise BadArtifact(f"{path} has lines that cannot be used. {'; '.join(faults[:SHOWN])}{rest}.".strip(), HINTS)
    found = PairFile(tuple(numbered.values()), ())
    if len(numbered) < FEWEST:
        raise BadArtifact(
            f"{path} has {len(numbered)} pairs, and {FEWEST} are the least.",
            f"Write more; {FEW} give a usable slider, and the shipped attributes have some 600 each.",
        )
    for split, least in LEAST.items():
        if found.splits[split] < least:
            raise BadArtifact(
                f"Only {found.splits[split]} of the pairs in {path} fall to the {split}s, and {least} are the least.",
                "Pairs are dealt out by a hash of their opening: write a few more.",
            )
    return PairFile(found.pairs, tuple(_warnings(path, numbered)))


def _faults(pair: Pair) -> Iterator[str]:
    if not pair.opening.strip():
        yield "the opening is empty"
        return
    for name in ("positive", "negative"):
        text = getattr(pair, name)
        if not text.startswith(pair.opening):
            yield f"the {name} text does not begin with the opening {pair.opening[:40]!r}"
        elif not text[len(pair.opening) :].strip():
            yield f"the {name} text ends where the opening ends"
    if pair.positive == pair.negative:
        yield "both texts are the same"


def _repeated(numbered: dict[int, Pair]) -> Iterator[str]:
    """Texts that stand in two lines: they would count twice, and a test on them would be none."""
    first: dict[str, int] = {}
    for number, pair in numbered.items():
        before = [first[text] for text in (pair.positive, pair.negative) if text in first]
        if before:
            yield f"line {number} repeats a text of line {min(before)}"
        for text in (pair.positive, pair.negative):
            first.setdefault(text, number)


def _warnings(path: Path, numbered: dict[int, Pair]) -> Iterator[str]:
    if len(numbered) < FEW:
        yield f"{path} has {len(numbered)} pairs: a slider will move, but with {FEW} or more it is much surer."
    lengths = {
        number: [len(text[len(pair.opening) :].split()) for text in (pair.positive, pair.negative)]
        for number, pair in numbered.items()
    }
    positive, negative = np.mean(list(lengths.values()), axis=0)
    if max(positive, negative) > MOST_RATIO * min(positive, negative):
        yield (
            f"Behind the opening the positive texts have {positive:.0f} words on average and the negative ones "
            f"{negative:.0f}: the slider will learn length too. Tell the same in both."
        )
    odd = [number for number, (a, b) in lengths.items() if max(a, b) > 3 * min(a, b)]
    if odd:
        shown = ", ".join(map(str, odd[:SHOWN])) + (", ..." if len(odd) > SHOWN else "")
        yield f"One text is more than three times as long as the other in line {shown}."
    openings = Counter(pair.opening for pair in numbered.values())
    again = [opening for opening, count in openings.items() if count > 1]
    if again:
        yield f"{len(again)} openings stand in several lines, such as {again[0][:40]!r}: other scenes teach more."
