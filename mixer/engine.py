"""Sessions and the decode loop: from a prompt and a mix that may move to a stream of steps.

A `Session` is one text being written. Anyone may set its mix from any thread; the loop reads it once a step.
`lockstep` runs several sessions as rows of one batch. Knows nothing of files, attributes or pages.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from mixer.errors import InvalidValue, UnknownName
from mixer.mix import Mix
from mixer.model import Model, Rows
from mixer.params import SamplingParams
from mixer.sampling import draw, warp

OnMixChange = Literal["keep", "refill", "restart"]
FinishReason = Literal["stop", "length", "context", "closed"]


@dataclass(frozen=True)
class Step:
    """One token of a stream.

    Attributes:
        text: what this step adds to the text; empty while a character or a possible stop text is incomplete.
        logprob: log-probability of the token under the mix, at temperature 1 and before truncation.
        mix_key: the mix that the token was drawn under.
        exact: whether every key and value it saw was computed under that mix.
        index: number of tokens before it; 0 again after a restart.
    """

    token_id: int
    text: str
    logprob: float
    mix_key: str
    exact: bool
    index: int


@dataclass(frozen=True)
class Stats:
    """Figures of one session: milliseconds from its making to the first token, speed after it, the last slider move."""

    first_token_ms: float | None
    tokens_per_second: float | None
    tokens: int
    apply_us: float | None
    exact: bool


class TextStream:
    """Token ids to text, piece by piece: whole characters only, and nothing that may turn out to be a stop text."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._decoder = DecodeStream(ids=list(prompt_ids), skip_special_tokens=True)
        self._held = ""

    def push(self, token: int) -> tuple[str, bool]:
        """The text that is now certain, and whether a stop text has appeared (it is cut off)."""
        self._held += self._decoder.step(self._tokenizer, token) or ""
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            text, self._held = self._held[: min(found)], ""
            return text, True
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        certain = len(self._held) - keep
        text, self._held = self._held[:certain], self._held[certain:]
        return text, False

    def flush(self) -> str:
        """What was held back, once nothing can follow."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Session:
    """One text being written under a mix that may move. Iterate over it for its steps; made by `Desk.session`.

    Attributes:
        text: all text so far, without the prompt.
        token_ids: all tokens so far, without the prompt.
        finish_reason: None while it runs.
        seed: the seed in use, drawn if none was given.
    """

    def __init__(
        self,
        model: Model,
        prompt: str,
        mix: Mix,
        params: SamplingParams,
        on_mix_change: OnMixChange,
        check: Callable[[Mix], tuple[float, ...]],
    ) -> None:
        if on_mix_change not in get_args(OnMixChange):
            raise UnknownName("way to treat a mix change", str(on_mix_change), get_args(OnMixChange))
        self.prompt, self.params, self.on_mix_change = prompt, params, on_mix_change
        self.prompt_ids = encode_prompt(model, prompt)
        self.seed = secrets.randbits(31) if params.seed is None else params.seed
        self._model, self._check = model, check
        self._wanted = (mix, check(mix))
        self._current = mix  # the mix that the row's gate holds
        self._born = time.perf_counter()
        self._first_at = self._last_at = None
        self._apply_us: float | None = None
        self._all_exact = True
        self._written = 0
        self.finish_reason: FinishReason | None = None
        self._begin()

    @property
    def mix(self) -> Mix:
        """The mix of the next token; set it from any thread.

        Raises:
            UnknownName: it names an anchor that is not loaded; the stream goes on under the former mix.
        """
        return self._wanted[0]

    @mix.setter
    def mix(self, mix: Mix) -> None:
        self._wanted = (mix, self._check(mix))  # one reference, replaced whole: readers never see half a change

    @property
    def stats(self) -> Stats:
        """Figures so far."""
        first = None if self._first_at is None else 1000 * (self._first_at - self._born)
        seconds = (self._last_at or 0.0) - (self._first_at or 0.0)
        speed = (self._written - 1) / seconds if seconds > 0 else None
        return Stats(first, speed, len(self.token_ids), self._apply_us, self._all_exact)

    def close(self) -> None:
        """End the stream; its row is freed before the next step. Closing twice is fine."""
        self.finish_reason = self.finish_reason or "closed"

    def __iter__(self) -> Iterator[Step]:
        for (step,) in lockstep(self._model, [self]):
            if step is not None:
                yield step

    # What follows is for the loop below.

    def _begin(self) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self._stale = False
        self._generator = torch.Generator().manual_seed(self.seed)
        self._stream = TextStream(self._model.backend_tokenizer, self.prompt_ids, tuple(self.params.stop))

    def _take(self, logits: torch.Tensor) -> Step:
        """Draw the next token from `(V,)` logits and write it down."""
        allowed = logits
        if len(self.token_ids) < self.params.min_new_tokens:
            allowed = logits.clone()
            allowed[list(self._model.eos_ids)] = -torch.inf
        token = draw(warp(allowed, self.params), self._generator)
        logprob = float(logits[token] - logits.logsumexp(-1))
        self._last_at = time.perf_counter()
        self._first_at = self._first_at or self._last_at
        self.token_ids.append(token)
        self._written += 1
        if token in self._model.eos_ids:
            text, stopped = "", True
            self.finish_reason = "stop"
        else:
            text, stopped = self._stream.push(token)
        if stopped:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.params.max_new_tokens:
            self.finish_reason = "length"
        elif len(self.prompt_ids) + len(self.token_ids) >= self._model.context:
            self.finish_reason = "context"
        if self.finish_reason:
            text += self._stream.flush()
        self.text += text
        self._all_exact = self._all_exact and not self._stale
        return Step(token, text, logprob, self._current.key, not self._stale, len(self.token_ids) - 1)

    def _apply(self, rows: Rows, row: int) -> None:
        """Bring the row's gate, and if need be its cache, to the mix now wanted."""
        mix, coefficients = self._wanted
        begin = time.perf_counter()
        rows.panel.set(row, coefficients)
        former, self._current = self._current, mix
        if mix is former:
            return
        self._apply_us = 1e6 * (time.perf_counter() - begin)
        if not self.token_ids or mix.key == former.key:
            return
        if self.on_mix_change == "restart":
            self._begin()
            rows.refill(row, self.prompt_ids)
        elif self.on_mix_change == "refill":
            rows.refill(row)
        else:
            self._stale = True


def lockstep(model: Model, sessions: Sequence[Session]) -> Iterator[tuple[Step | None, ...]]:
    """Run sessions as rows of one batch, one forward pass a tick, until all have ended.

    Yields:
        one `Step` for each session, None for those that have ended. Closing the iterator closes the sessions.
    """
    live = [index for index, session in enumerate(sessions) if session.finish_reason is None]
    rows = Rows(model, [sessions[index].prompt_ids for index in live])
    try:
        while live:
            running = [row for row, index in enumerate(live) if sessions[index].finish_reason is None]
            if len(running) < len(live):
                live = [live[row] for row in running]
                rows.select(running)
                continue
            for row, index in enumerate(live):
                sessions[index]._apply(rows, row)
            logits = rows.logits()
            tick: list[Step | None] = [None] * len(sessions)
            for row, index in enumerate(live):
                if sessions[index].finish_reason is None:  # closed during the forward pass
                    tick[index] = step = sessions[index]._take(logits[row])
                    rows.append(row, step.token_id)
            yield tuple(tick)
    finally:
        for session in sessions:
            session.close()


def encode_prompt(model: Model, prompt: str) -> list[int]:
    """Token ids of a prompt.

    Raises:
        InvalidValue: it is empty, or leaves no room in the model's context.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidValue("The prompt is empty.", "Write a few words for the model to go on from.")
    # A huge prompt is refused before it is tokenized, which takes long and could only say the same.
    if len(prompt) <= 64 * model.context:
        ids = model.encode(prompt)
        if 0 < len(ids) < model.context:
            return ids
        size = f"{len(ids):,} tokens" if ids else "no tokens"
    else:
        size = f"{len(prompt):,} characters"
    raise InvalidValue(
        f"The prompt has {size}, and this model reads {model.context:,} tokens, its own text included.",
        "Shorten the prompt.",
    )
