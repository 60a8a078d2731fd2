"""The prefix cache: keys and values of prompts that were prefilled before, by mix and tokens.

They are never used under another mix. The size is bounded; those unused for longest are dropped first. Knows nothing of
what a snapshot is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

SHORTEST = 8  # tokens; fewer are computed faster than copied


class PrefixCache:
    """Snapshots of rows, by mix and tokens.

    Args:
        most_tokens: tokens of all snapshots together, at most.
    """

    def __init__(self, most_tokens: int) -> None:
        self.most_tokens, self.tokens = most_tokens, 0
        self._snapshots: OrderedDict[tuple[str, tuple[int, ...]], Any] = OrderedDict()

    def find(self, mix_key: str, ids: Sequence[int]) -> tuple[int, Any]:
        """How many first tokens of `ids` are known under this mix, and the snapshot that holds them; 0 if none."""
        best, length = None, SHORTEST - 1
        for key in self._snapshots:
            if key[0] == mix_key and (known := common_prefix(key[1], ids)) > length:
                best, length = key, known
        if best is None:
            return 0, None
        self._snapshots.move_to_end(best)
        return length, self._snapshots[best]

    def wants(self, mix_key: str, ids: Sequence[int]) -> bool:
        """Whether a snapshot of these tokens is worth making."""
        return SHORTEST <= len(ids) <= self.most_tokens and (mix_key, tuple(ids)) not in self._snapshots

    def keep(self, mix_key: str, ids: Sequence[int], snapshot: Any) -> None:
        """Keep a snapshot, and drop those unused for longest while there are too many tokens."""
        key = mix_key, tuple(ids)
        if key not in self._snapshots:
            self.tokens += len(ids)
        self._snapshots[key] = snapshot
        self._snapshots.move_to_end(key)
        while self.tokens > self.most_tokens:
            (_, dropped), _ = self._snapshots.popitem(last=False)
            self.tokens -= len(dropped)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
