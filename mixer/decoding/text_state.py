"""A text as it grows: its tokens, its characters, what ends it and what a ban takes back.

One row group appends to it, token by token. Knows nothing of mixes that are wanted, of rows or of distributions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby

from mixer.decoding.steps import Drawn, DrawnUnder, FinishReason, Segment, Stats, Step
from mixer.decoding.text import Bans, TextStream
from mixer.model.model import Model
from mixer.values.sampling import SamplingParams

MOST_REWINDS = 1000  # rewinds of one text; then it ends


class TextState:
    """One text in progress.

    Args:
        model: the resident model, whose tokenizer decodes the text.
        prompt_ids: the prompt, which is not part of the text.
        context_room: tokens that fit behind the longest prompt of the text's rows.
        bans: words that the text may not hold.

    Attributes:
        text: all characters so far.
        token_ids: all tokens so far.
        ends: tokens that end the text.
        bans: words that it may not hold.
        stream: what turns tokens into characters.
        apply_us: microseconds that the last slider move took to reach the gate; written by the row group.
    """

    def __init__(
        self,
        model: Model,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        context_room: int,
        bans: Sequence[str],
    ) -> None:
        self._tokenizer, self._prompt_ids, self._params = model.backend_tokenizer, prompt_ids, params
        self._context_room, self.bans = context_room, Bans(bans)
        self.ends = model.eos_ids
        self._reason: FinishReason | None = None
        self._closed = False
        self.apply_us: float | None = None
        self._born = time.perf_counter()
        self._first_at = self._last_at = None
        self._appended = 0
        self._nats, self._most_nats = 0.0, 0.0
        self._all_exact = True
        self.begin()

    def begin(self) -> None:
        """Begin the text, or begin it again."""
        self._barred: dict[int, set[int]] = {}
        self._rewinds = 0
        self._cut(0)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the text ended; None while it goes on."""
        return self._reason or ("closed" if self._closed else None)

    def close(self) -> None:
        """End the text where it stands. Any thread may; a reason that is there stays."""
        self._closed = True

    def give_up(self) -> None:
        """End the text because every way on leads to a banned word."""
        self._reason = "ban"

    @property
    def room(self) -> int:
        """Tokens that may still come."""
        return min(self._params.max_new_tokens, self._context_room) - len(self.token_ids)

    def may_end(self, index: int) -> bool:
        """Whether the token after the first `index` may be the end of the text."""
        return index >= self._params.min_new_tokens

    def barred(self, index: int) -> set[int]:
        """Tokens that a ban forbids after the first `index`."""
        return self._barred.get(index, set())

    @property
    def drawn_under(self) -> DrawnUnder | None:
        """The conditions of the last token; None where there is no token."""
        return self._under[-1] if self._under else None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The text so far, divided where the conditions of its tokens change."""
        under = list(self._under)  # a token's conditions come after it, and another thread may be appending one
        runs = groupby(zip(self.token_ids, under, strict=False), key=lambda drawn: drawn[1])
        return tuple(Segment(tuple(token for token, _ in run), *under) for under, run in runs)

    def stats(self, acceptance: float | None) -> Stats:
        """Figures so far; the acceptance rate is the speculation's."""
        first = None if self._first_at is None else 1000 * (self._first_at - self._born)
        seconds = (self._last_at or 0.0) - (self._first_at or 0.0)
        speed = (self._appended - 1) / seconds if seconds > 0 else None
        nats = self._nats / max(1, self._appended)
        exact, most = self._all_exact, self._most_nats
        return Stats(first, speed, len(self.token_ids), self.apply_us, exact, acceptance, nats, most)

    def append(self, drawn: Drawn, under: DrawnUnder) -> Step:
        """Append a token; where it completes a banned word, take that word back instead."""
        self._nats, self._most_nats = self._nats + drawn.nats, max(self._most_nats, drawn.nats)
        self._last_at = time.perf_counter()
        self._first_at = self._first_at or self._last_at
        self._appended += 1
        text, stopped = self._write(drawn.token)
        if stopped:
            self._reason = "stop"
        elif self.room <= 0:
            self._reason = "length" if len(self.token_ids) >= self._params.max_new_tokens else "context"
        if self._reason:
            rest = self.stream.flush()
            self.text, text = self.text + rest, text + rest
        self._under.append(under)
        self._all_exact = self._all_exact and under.exact
        banned_at = self.bans.find(self.text, ended=self._reason is not None)
        if banned_at is not None:
            return self._take_back(banned_at, drawn, under, len(text))
        key, index = under.mix.key, len(self.token_ids) - 1
        guessed, nats, levels = drawn.guessed, drawn.nats, drawn.levels
        return Step(
            drawn.token, text, drawn.logprob, key, under.exact, index, guessed=guessed, nats=nats, levels=levels
        )

    def _take_back(self, banned_at: int, drawn: Drawn, under: DrawnUnder, added: int) -> Step:
        """Cut the text before a banned word, and bar the token that began the word at that index.

        Args:
            banned_at: the word's first character.
            added: characters that the newest token added, which no reader has seen.
        """
        first = next((i for i, end in enumerate(self._text_ends) if end > banned_at), len(self.token_ids) - 1)
        begun, shown, dropped = self.token_ids[first], len(self.text) - added, len(self.token_ids) - first
        self._reason = None
        self._cut(first)
        self._barred = {index: barred for index, barred in self._barred.items() if index <= first}
        self._barred.setdefault(first, set()).add(begun)
        self._rewinds += 1
        if self._rewinds >= MOST_REWINDS:
            self.give_up()
        rewind = max(0, shown - len(self.text))
        key, nats, levels = under.mix.key, drawn.nats, drawn.levels
        return Step(drawn.token, "", drawn.logprob, key, under.exact, first, rewind, dropped, nats=nats, levels=levels)

    def _cut(self, tokens: int) -> None:
        """Keep the first `tokens` tokens of the text."""
        kept, under = (self.token_ids[:tokens], self._under[:tokens]) if tokens else ([], [])
        self.token_ids: list[int] = []
        self._under: list[DrawnUnder] = under
        self.text = ""
        self._text_ends: list[int] = []  # length of the text after each token
        self.stream = TextStream(self._tokenizer, self._prompt_ids, tuple(self._params.stop))
        for token in kept:
            self._write(token)

    def _write(self, token: int) -> tuple[str, bool]:
        """Append a token; returns the characters it adds, and whether the text ends with it."""
        self.token_ids.append(token)
        text, stopped = ("", True) if token in self.ends else self.stream.push(token)
        self.text += text
        self._text_ends.append(len(self.text))
        return text, stopped
