"""Sessions: one text being written, under a mix that may move, as a stream of steps.

Anyone may set a session's mix from any thread; the scheduler reads it once a step. Knows nothing of files, attributes
or pages, nor of what else is being written.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from mixer.errors import InvalidValue, UnknownName
from mixer.lora import Gate
from mixer.mix import Mix
from mixer.model import Model
from mixer.params import SamplingParams

OnMixChange = Literal["keep", "refill", "restart"]
FinishReason = Literal["stop", "length", "context", "closed"]
REST_SECONDS = 0.2  # after so long without a move, what `keep` left stale is computed anew


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
        on_close: called when the session was closed.
    """

    on_close: Callable[[], None] | None = None

    def __init__(
        self,
        model: Model,
        prompt: str,
        mix: Mix,
        params: SamplingParams,
        on_mix_change: OnMixChange,
        check: Callable[[Mix], tuple[float, ...]],
        run: Callable[[Session], Iterator[tuple[Step | None, ...]]],
    ) -> None:
        if on_mix_change not in get_args(OnMixChange):
            raise UnknownName("way to treat a mix change", str(on_mix_change), get_args(OnMixChange))
        self.prompt, self.params, self.on_mix_change = prompt, params, on_mix_change
        self.prompt_ids = encode_prompt(model, prompt)
        self.seed = secrets.randbits(31) if params.seed is None else params.seed
        self._model, self._check, self._run = model, check, run
        self._wanted = (mix, check(mix))
        self._current = Mix()  # what a fresh row's gate holds
        self._born = time.perf_counter()
        self._first_at = self._last_at = None
        self._apply_us: float | None = None
        self._all_exact = True
        self._last_move = -REST_SECONDS
        self._written = 0
        self.finish_reason: FinishReason | None = None
        self.begin()

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
        if self.on_close:
            self.on_close()

    def __iter__(self) -> Iterator[Step]:
        for (step,) in self._run(self):
            if step is not None:
                yield step

    # What follows is for the scheduler.

    def begin(self) -> None:
        """Begin the text, or begin it again."""
        self.token_ids: list[int] = []
        self.text = ""
        self._moved_at: float | None = None
        self._stream = TextStream(self._model.backend_tokenizer, self.prompt_ids, tuple(self.params.stop))

    @property
    def may_end(self) -> bool:
        """Whether the next token may be the end of the text."""
        return len(self.token_ids) >= self.params.min_new_tokens

    @property
    def at_rest(self) -> bool:
        """Whether the mix was not moved lately."""
        return time.perf_counter() - self._last_move >= REST_SECONDS

    @property
    def current(self) -> Mix:
        """The mix that the row's gate holds."""
        return self._current

    def apply(self, gate: Gate, row: int) -> bool:
        """Bring the row's gate to the mix now wanted; whether the row's keys and values must be computed anew."""
        mix, coefficients = self._wanted
        if mix is not self._current:
            start = time.perf_counter()
            gate[row] = coefficients
            former, self._current = self._current, mix
            self._apply_us = 1e6 * (time.perf_counter() - start)
            if self.token_ids and mix != former:
                self._last_move = start
                if self.on_mix_change == "restart":
                    self.begin()
                    return True
                self._moved_at = start
                if self.on_mix_change == "refill":
                    self._moved_at = None
                    return True
        if self._moved_at is not None and time.perf_counter() - self._moved_at >= REST_SECONDS:
            self._moved_at = None
            return True
        return False

    def take(self, token: int, logprob: float) -> Step:
        """Write down the next token."""
        self._last_at = time.perf_counter()
        self._first_at = self._first_at or self._last_at
        self.token_ids.append(token)
        self._written += 1
        if token in self._model.eos_ids:
            text, stopped = "", True
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
        exact = self._moved_at is None
        self._all_exact = self._all_exact and exact
        return Step(token, text, logprob, self._current.key, exact, len(self.token_ids) - 1)


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
