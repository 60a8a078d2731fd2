"""What a benchmark runs with: the model, precision, threads, prompts of a given length, coefficients, anchors.

Loads no torch. Knows nothing of systems or times.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.values.mix import POLES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PEERS = ("transformers", "peft", "llama.cpp")
DTYPES = ("float32", "bfloat16")
TEXT = "The last train of the evening was late and nobody who waited there could say why, for the night was cold, "
TEXT += "the wind had not slept for a week, and the lamps burned low along the whole platform"


@dataclass(frozen=True)
class BenchConfig:
    """The settings of one run.

    Attributes:
        base: folder of the base model.
        anchors: folder of PEFT adapters, in any layout `Desk.load` reads.
        dtype: precision of the weights of every system.
        threads: most threads a system may use; 0 becomes the number of cores.
        peers: the peers that run beside the desk.
        quick: a short run with rough figures.
        seed: of coefficients and moves.

    Raises:
        UnknownName: there is no such precision or peer. InvalidValue: more threads than cores, or less than none.
    """

    base: Path
    anchors: Path
    dtype: str = "float32"
    threads: int = 0
    peers: tuple[str, ...] = PEERS
    quick: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UnknownName("dtype to measure in", self.dtype, DTYPES)
        for peer in self.peers:
            if peer not in PEERS:
                raise UnknownName("peer", peer, PEERS)
        cores = os.cpu_count() or 1
        if not 0 <= self.threads <= cores:
            raise InvalidValue(f"{self.threads} threads cannot be compared here.", f"Give 1 to {cores}.")
        object.__setattr__(self, "threads", self.threads or cores)


def prompt_of(tokenizer: Tokenizer, tokens: int, turn: int = 0) -> str:
    """A text of nearly `tokens` tokens, never more. Each turn begins with another word, so that no cache helps."""
    words = TEXT.split()
    words = words[turn % len(words) :] + words[: turn % len(words)]
    text = words[0]
    for index in range(1, tokens):
        longer = f"{text} {words[index % len(words)]}"
        if len(tokenizer.encode(longer).ids) > tokens:
            break
        text = longer
    return text


def coefficients(count: int, live: int, seed: int) -> list[float]:
    """`count` coefficients. `live` of them, spread evenly, have a size of 0.2 to 1 and any sign; the others are 0."""
    rng = random.Random(f"{seed}/{count}/{live}")
    chosen = {index * count // live for index in range(live)} if live else set()
    return [rng.choice((-1, 1)) * rng.uniform(0.2, 1.0) if i in chosen else 0.0 for i in range(count)]


def adapters_in(anchors: Path) -> list[Path]:
    """Folders of all adapters, by attribute, the negative pole first.

    Raises:
        BadArtifact: there is no such folder, or no adapter in it.
    """
    if not anchors.is_dir():
        raise BadArtifact(f"There is no anchors folder at {anchors}.", "Give --anchors another folder.")
    found = []
    for attribute in sorted(path for path in anchors.iterdir() if path.is_dir()):
        candidates = (attribute, *(attribute / pole for pole in POLES))
        found += [path for path in candidates if (path / "adapter_config.json").is_file()]
    if not found:
        raise BadArtifact(f"{anchors} holds no adapter.", "Give --anchors a folder with some.")
    return found


def link_anchors(adapters: list[Path], count: int, out: Path) -> list[Path]:
    """Make an anchors folder with `count` anchors, two for each slider. Adapters are used again if there are too few.

    Returns:
        the folders of the adapters in coefficient order, `count` of them.

    Raises:
        InvalidValue: `count` is odd or below two.
    """
    if count < 2 or count % 2:
        raise InvalidValue(f"{count} anchors do not make whole sliders.", "Give an even number.")
    chosen = [adapters[index % len(adapters)] for index in range(count)]
    for index, folder in enumerate(chosen):
        link = out / f"slider{index // 2:02}" / POLES[index % 2]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder.resolve(), target_is_directory=True)
    return chosen


def poles(position: float) -> tuple[float, float]:
    """Coefficients of the (negative, positive) anchor of a slider at a position, under the *offset* rule."""
    return max(-position, 0.0), max(position, 0.0)
