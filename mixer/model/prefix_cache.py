"""Keys and values of prompts that were read before, by (tokens, mix): never used under another mix.

Bounded, the longest unused go first. Knows nothing of what a snapshot is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

SHORTEST = 8  # tokens; less is computed sooner than kept


class PrefixCache:
    """Snapshots of rows, by mix and tokens.

    Args:
        most_tokens: of all snapshots together.
    """

    def __init__(self, most_tokens: int) -> None:
        self.most_tokens, self.tokens = most_tokens, 0
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], Any] = OrderedDict()

    def find(self, mix_key: str, ids: Sequence[int]) -> tuple[int, Any]:
        """How many first tokens of `ids` are known under this mix, and the snapshot that holds them; 0 if none."""
        best, length = None, SHORTEST - 1
        for key in self._kept:
            if key[0] == mix_key and (known := shared(key[1], ids)) > length:
                best, length = key, known
        if best is None:
            return 0, None
        self._kept.move_to_end(best)
        return length, self._kept[best]

    def wants(self, mix_key: str, ids: Sequence[int]) -> bool:
        """Whether a snapshot of these tokens is worth making."""
        return SHORTEST <= len(ids) <= self.most_tokens and (mix_key, tuple(ids)) not in self._kept

    def keep(self, mix_key: str, ids: Sequence[int], snapshot: Any) -> None:
        """Keep a snapshot, and let go of the longest unused where it is too much."""
        key = mix_key, tuple(ids)
        if key not in self._kept:
            self.tokens += len(ids)
        self._kept[key] = snapshot
        self._kept.move_to_end(key)
        while self.tokens > self.most_tokens:
            (_, former), _ = self._kept.popitem(last=False)
            self.tokens -= len(former)


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens are the same."""
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return min(len(a), len(b))
