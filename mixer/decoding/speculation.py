"""Speculative decoding: guess several next tokens, and verify all of them in one forward pass.

A guess is accepted only if it is the token that the text would have drawn anyway. The sampling noise depends on the
text's seed, the step and the token (see `mixer.decoding.sampler`). The draft draws with the same noise, so both often
agree, and a text is the same with and without speculation (coupling by shared noise: Daliri et al., arXiv 2408.07978).
The usual rule of acceptance (Leviathan et al., arXiv 2211.17192) accepts a few more guesses, but changes the text.

Knows token ids and seconds. Knows no text and no network.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from mixer.formula.bind import BoundFormula

MOST = 8  # guesses in one block, at most
LONGEST, SHORTEST = 4, 2  # last tokens of the text that `repeated` looks for in the text before
MEMORY = 0.95  # weight of all earlier observations, relative to a new one
FIRST = (0, 2)  # guesses in the first two blocks, which measure what passes cost
RETRY = 32  # after so many blocks without a guess, one guess is tried


class Speculation:
    """How many tokens to guess for one text, and how many were right.

    Args:
        draft: the formula that guesses. None: guess what followed the same few tokens earlier in the text (`repeated`).

    Attributes:
        guessed, accepted: number of tokens so far.
    """

    def __init__(self, draft: BoundFormula | None) -> None:
        self.draft = draft
        self.guessed = self.accepted = 0
        self._hits, self._misses = 2.0, 1.0  # a prior: guesses hold with probability 2/3
        self._draft_seconds: float | None = None
        self._costs = DraftCosts()
        self._idle = 0

    def length(self, room: int) -> int:
        """How many tokens to guess in the next block, at most `room`.

        The number that makes a token cheapest. A block of k guesses takes k passes of the draft and one pass of the
        formula over k + 1 positions. It yields (1 - a^(k+1)) / (1 - a) tokens if each guess holds with probability a
        (arXiv 2311.14479). The costs are those measured so far.
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
        """Note the seconds of one pass of the draft."""
        former = seconds if self._draft_seconds is None else self._draft_seconds
        self._draft_seconds = former + 0.2 * (seconds - former)

    def saw(self, guesses: int, accepted: int, seconds: float) -> None:
        """Note one block: its guesses, how many were accepted, and the seconds of the pass that verified them."""
        self._costs.add(guesses, seconds)
        self.guessed, self.accepted = self.guessed + guesses, self.accepted + accepted
        if guesses:
            self._hits = MEMORY * self._hits + accepted
            self._misses = MEMORY * self._misses + (accepted < guesses)


class DraftCosts:
    """Seconds of a pass, as a straight line over the number of guesses.

    A least-squares fit. The weight of old observations decays.

    Attributes:
        passes: number of observations.
    """

    def __init__(self) -> None:
        self._sums = (0.0,) * 5
        self.passes = 0

    def add(self, guesses: int, seconds: float) -> None:
        """Note one pass."""
        self.passes += 1
        news = (1.0, guesses, seconds, guesses * guesses, guesses * seconds)
        self._sums = tuple(MEMORY * old + new for old, new in zip(self._sums, news, strict=True))

    def at(self, guesses: int) -> float:
        """Expected seconds of a pass. They never fall as guesses are added."""
        n, x, y, xx, xy = self._sums
        spread = n * xx - x * x
        slope = max(0.0, (n * xy - x * y) / spread) if spread > 1e-9 * n * n else 0.0
        return max(1e-9, (y - slope * x) / n + slope * guesses)


def repeated(ids: Sequence[int], most: int) -> list[int]:
    """At most `most` tokens that followed an earlier occurrence of the last few tokens; empty where there is none.

    The longest match counts, from `LONGEST` down to `SHORTEST` tokens; of equally long ones the latest.
    """
    data = array("q", ids).tobytes()  # a search in bytes is fast
    for size in range(min(LONGEST, len(ids) - 1), SHORTEST - 1, -1):
        tail, end = data[-8 * size :], len(data) - 1
        while (at := data.rfind(tail, 0, end)) >= 0:
            if at % 8 == 0:
                start = at // 8 + size
                return list(ids[start : start + most])
            end = at + len(tail) - 1
    return []
