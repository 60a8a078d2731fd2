"""Speculation: several next tokens guessed, and verified in one forward pass.

A guess is kept where it is the very token that the text would have drawn. Tokens are drawn with noise that belongs to
the text, its step and the token alone, and a draft draws with the same noise, so that the two often agree and a text is
the same with and without speculation. (Coupling by shared noise: Daliri et al., arXiv 2408.07978; the usual rule of
acceptance, Leviathan et al., arXiv 2211.17192, keeps a few more guesses and changes the text.)

Knows token ids and seconds; no text, no network.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from mixer.formula.bind import BoundFormula

MOST = 8  # guesses in one block
LONGEST, SHORTEST = 4, 2  # tokens that must have occurred before, for a guess at what follows them
MEMORY = 0.95  # how much an observation counts when the next one comes
FIRST = (0, 2)  # guesses in the first blocks, so that there are costs to go by
RETRY = 32  # blocks without a guess until one is tried again


class Speculation:
    """How many tokens to guess for one text, and how that went.

    Args:
        draft: the formula that guesses; None guesses what followed the same few tokens before.

    Attributes:
        guessed, accepted: tokens so far.
    """

    def __init__(self, draft: BoundFormula | None) -> None:
        self.draft = draft
        self.guessed = self.accepted = 0
        self._hits, self._misses = 2.0, 1.0  # so that the first blocks are tried
        self._draft_seconds: float | None = None
        self._costs = DraftCosts()
        self._idle = 0

    def length(self, room: int) -> int:
        """How many tokens to guess in the next block, at most `room`.

        The number that makes a token cheapest: a block of k guesses takes k passes of the draft and one of the formula
        over k + 1 positions, and yields (1 - a^(k+1)) / (1 - a) tokens where a guess holds with probability a
        (arXiv 2311.14479, with the costs as measured here).
        """
        rate = self._hits / (self._hits + self._misses)
        each = 0.0 if self.draft is None else (self._draft_seconds or 0.0)

        def price(k: int) -> float:
            return (k * each + self._costs.at(k)) / sum(rate**i for i in range(k + 1))

        best = FIRST[self._costs.passes] if self._costs.passes < len(FIRST) else min(range(MOST + 1), key=price)
        self._idle = 0 if best else self._idle + 1
        if self._idle >= RETRY:
            self._idle, best = 0, 1
        return min(best, room)

    def saw_draft(self, seconds: float) -> None:
        """What one pass of the draft took."""
        former = seconds if self._draft_seconds is None else self._draft_seconds
        self._draft_seconds = former + 0.2 * (seconds - former)

    def saw(self, guesses: int, accepted: int, seconds: float) -> None:
        """How one block went, and what its verifying pass took."""
        self._costs.add(guesses, seconds)
        self.guessed, self.accepted = self.guessed + guesses, self.accepted + accepted
        if guesses:
            self._hits = MEMORY * self._hits + accepted
            self._misses = MEMORY * self._misses + (accepted < guesses)


class DraftCosts:
    """Seconds of a pass as a straight line over the number of guesses; old observations fade.

    Attributes:
        passes: how many were seen.
    """

    def __init__(self) -> None:
        self._sums = (0.0,) * 5
        self.passes = 0

    def add(self, guesses: int, seconds: float) -> None:
        """One pass."""
        self.passes += 1
        news = (1.0, guesses, seconds, guesses * guesses, guesses * seconds)
        self._sums = tuple(MEMORY * old + new for old, new in zip(self._sums, news, strict=True))

    def at(self, guesses: int) -> float:
        """Expected seconds; a pass over more tokens never counts as cheaper."""
        n, x, y, xx, xy = self._sums
        spread = n * xx - x * x
        slope = max(0.0, (n * xy - x * y) / spread) if spread > 1e-9 * n * n else 0.0
        return max(1e-9, (y - slope * x) / n + slope * guesses)


def repeated(ids: Sequence[int], most: int) -> list[int]:
    """What followed the last few tokens where they occurred before, longest match and latest occurrence first."""
    data = array("q", ids).tobytes()  # in which a search is quick
    for size in range(min(LONGEST, len(ids) - 1), SHORTEST - 1, -1):
        tail, end = data[-8 * size :], len(data) - 1
        while (at := data.rfind(tail, 0, end)) >= 0:
            if at % 8 == 0:
                start = at // 8 + size
                return list(ids[start : start + most])
            end = at + len(tail) - 1
    return []
