"""Sessions: one text being written by a formula, under a mix that may move, as a stream of steps.

Anyone may set a session's mix from any thread; the scheduler reads it once a round. Knows nothing of files, attributes
or pages, nor of what else is being written.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from mixer.decoding.evaluate import OpinionReader
from mixer.decoding.speculation import Speculation
from mixer.decoding.text import Bans, TextStream, encode_prompt
from mixer.errors import InvalidValue, UnknownName
from mixer.formula.bind import BASE, BoundFormula, Branch
from mixer.model.model import Model
from mixer.rewards.controller import RewardController
from mixer.values.mix import Mix
from mixer.values.sampling import SamplingParams
from mixer.values.steering import REST, Steering

OnMixChange = Literal["keep", "refill", "restart"]
FinishReason = Literal["stop", "length", "context", "closed", "ban"]
MOST_REWINDS = 1000  # of one text, before it ends
REST_SECONDS = 0.2  # after so long without a move, what `keep` left stale is computed anew


@dataclass(frozen=True)
class Step:
    """One token of a stream, or what a ban took back.

    Attributes:
        text: what this step adds to the text; empty while a character or a possible stop text is incomplete.
        logprob: log-probability of the token under the formula, at temperature 1 and before truncation.
        mix_key: the mix that the token was drawn under.
        exact: whether every key and value it saw was computed under that mix.
        index: number of tokens before it; 0 again after a restart.
        rewind: characters to take off the text's end, because a banned word begins there.
        dropped: tokens taken back for that, this step's own included, so that `index` are left; 0 where it stays.
        guessed: whether speculation had guessed the token.
        nats: how far rewards took the token's distribution, `KL(p' || p)` at the sampling temperature, and what else
            the steering's budget counts.
        levels: what each reward that steers made of the text before the token, 0 to 1 as far as it was trained well.
    """

    token_id: int
    text: str
    logprob: float
    mix_key: str
    exact: bool
    index: int
    rewind: int = 0
    dropped: int = 0
    guessed: bool = False
    nats: float = 0.0
    levels: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Drawn:
    """A token that a text goes on with; see `Step`."""

    token: int
    logprob: float
    guessed: bool = False
    nats: float = 0.0
    levels: Mapping[str, float] = field(default_factory=dict)


class DrawnUnder(NamedTuple):
    """What a token was drawn under; see `Segment`."""

    mix: Mix
    steering: Steering
    exact: bool


@dataclass(frozen=True)
class Segment:
    """Tokens of a text that were drawn one after another under the same mix.

    Attributes:
        exact: whether all that stands before them was read under that mix too; see `Step`.
    """

    token_ids: tuple[int, ...]
    mix: Mix = field(default_factory=Mix)
    steering: Steering = REST
    exact: bool = True


@dataclass(frozen=True)
class Stats:
    """Figures of one session: milliseconds from its making to the first token, speed after it, the last slider move,
    the share of guessed tokens that held (None where none was guessed), the mean of its steps' nats and the most."""

    first_token_ms: float | None
    tokens_per_second: float | None
    tokens: int
    apply_us: float | None
    exact: bool
    acceptance: float | None = None
    nats: float = 0.0
    most_nats: float = 0.0


@dataclass(frozen=True)
class BranchPrompt:
    """A branch of a session's formula, the model that computes it, and what it reads before the text."""

    branch: Branch
    model: Model
    prompt_ids: tuple[int, ...]

    def under(self, sliders: Mix) -> tuple[Mix, tuple[float, ...]]:
        """Its mix and coefficients, `(K,)`, while the sliders stand like this.

        Raises:
            UnknownName: the mix names an anchor that is not loaded. InvalidValue: a coefficient is out of range.
        """
        mix = self.branch.under(sliders)
        return mix, mix.coefficients(self.model.anchors)


class Session:
    """One text being written under a mix that may move. Iterate over it for its steps; made by `Desk.session`.

    Attributes:
        text: all text so far, without the prompt.
        token_ids: all tokens so far, without the prompt.
        finish_reason: None while it runs; `ban` where every way on leads to a banned word.
        seed: the seed in use, drawn if none was given.
        bound: the formula that it is written by.
        branch_prompts: the formula's branches, and those of the draft.
        speculation: how tokens are guessed; None where they are not.
        controller: the reward heads that may steer it.
        prepared: the steering of this round.
        vocab: tokens that may be drawn, V.
        models: what computes its branches.
        most_tokens: tokens that its longest row may come to hold.
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
        run: Callable[[Session], Iterator[tuple[Step | None, ...]]],
        bound: BoundFormula,
        branch_prompts: Sequence[BranchPrompt],
        opinions: Callable[[Sequence[int], Sequence[int], Tensor], OpinionReader],
        controller: RewardController,
        steering: Steering = REST,
        speculation: Speculation | None = None,
    ) -> None:
        if on_mix_change not in get_args(OnMixChange):
            raise UnknownName("way to treat a mix change", str(on_mix_change), get_args(OnMixChange))
        self.prompt, self.params, self.on_mix_change = prompt, params, on_mix_change
        self.prompt_ids = encode_prompt(model, prompt)
        self.seed = secrets.randbits(31) if params.seed is None else params.seed
        self.ends, self.vocab = model.eos_ids, model.vocab
        self.bound, self.branch_prompts, self.speculation = bound, tuple(branch_prompts), speculation
        self._model, self._run, self._opinions = model, run, opinions
        self._follows = any(branch_prompt.branch.follows for branch_prompt in self.branch_prompts)
        self._room = min(
            branch_prompt.model.context - len(branch_prompt.prompt_ids) for branch_prompt in self.branch_prompts
        )
        self.most_tokens = max(len(r.prompt_ids) for r in self.branch_prompts) + min(params.max_new_tokens, self._room)
        self.models = tuple(
            {branch_prompt.model.order: branch_prompt.model for branch_prompt in self.branch_prompts}.values()
        )
        self._wanted = mix, tuple(branch_prompt.under(mix) for branch_prompt in self.branch_prompts)
        self._current = mix
        self.controller, self.steering = controller, steering
        self.prepared = self._prepared  # in this round
        self._bans = Bans(bound.bans)
        self._born = time.perf_counter()
        self._first_at = self._last_at = None
        self._apply_us: float | None = None
        self._all_exact = True
        self._last_move = -REST_SECONDS
        self._written = 0
        self._nats, self._most_nats = 0.0, 0.0
        self.finish_reason: FinishReason | None = None
        self.begin()

    @property
    def mix(self) -> Mix:
        """The sliders' mix for the next token; set it from any thread. Terms that follow the sliders follow it.

        Raises:
            UnknownName: it names an anchor that is not loaded; the stream goes on under the former mix.
            InvalidValue: with what the formula adds to it, a coefficient is out of range.
        """
        return self._wanted[0]

    @mix.setter
    def mix(self, mix: Mix) -> None:
        former = self._wanted[1]
        rows = tuple(
            branch_prompt.under(mix) if branch_prompt.branch.follows else row
            for branch_prompt, row in zip(self.branch_prompts, former, strict=True)
        )
        self._wanted = mix, rows  # one reference, replaced whole: readers never see half a change

    @property
    def stats(self) -> Stats:
        """Figures so far."""
        first = None if self._first_at is None else 1000 * (self._first_at - self._born)
        seconds = (self._last_at or 0.0) - (self._first_at or 0.0)
        speed = (self._written - 1) / seconds if seconds > 0 else None
        guessed = self.speculation.guessed if self.speculation else 0
        acceptance = self.speculation.accepted / guessed if self.speculation and guessed else None
        nats = self._nats / max(1, self._written)
        written = len(self.token_ids)
        return Stats(first, speed, written, self._apply_us, self._all_exact, acceptance, nats, self._most_nats)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The text so far, by what its tokens were drawn under."""
        runs = groupby(zip(self.token_ids, self._under, strict=True), key=lambda drawn: drawn[1])
        return tuple(Segment(tuple(token for token, _ in run), *under) for under, run in runs)

    @property
    def steering(self) -> Steering:
        """How rewards steer the next token; set it from any thread. No key or value depends on it.

        Raises:
            UnknownName: there is no such reward. Unsupported: it cannot be fused. InvalidValue: the formula has no row
                that heads can read, or the text was begun without the base's own row, and the budget is to count it.
        """
        return self._prepared.steering

    @steering.setter
    def steering(self, steering: Steering) -> None:
        prepared = self.controller.prepare(steering)
        if steering.heads and self.bound.reward_branch is None:
            hint = "Add a term of the base to the formula."
            raise InvalidValue("Reward heads read the resident base, and the formula has no term of it.", hint)
        if steering.whole and not any(branch_prompt.branch == BASE for branch_prompt in self.branch_prompts):
            hint = "Start the text with a steering that does."
            raise InvalidValue("The budget cannot count the whole from here on: the base's own row is missing.", hint)
        self._prepared = prepared

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
        self._stale = False
        self._barred: dict[int, set[int]] = {}
        self._rewinds = 0
        self._cut(0)

    def _cut(self, tokens: int) -> None:
        """Leave the text with its first tokens."""
        kept, under = (self.token_ids[:tokens], self._under[:tokens]) if tokens else ([], [])
        self.token_ids: list[int] = []
        self._under: list[DrawnUnder] = under
        self.text = ""
        self._ends: list[int] = []  # length of the text after each token
        self._stream = TextStream(self._model.backend_tokenizer, self.prompt_ids, tuple(self.params.stop))
        for token in kept:
            self._write(token)

    def _write(self, token: int) -> tuple[str, bool]:
        """Add a token; what it adds to the text, and whether a stop text has appeared."""
        self.token_ids.append(token)
        text, stopped = ("", True) if token in self.ends else self._stream.push(token)
        self.text += text
        self._ends.append(len(self.text))
        return text, stopped

    def may_end(self, index: int) -> bool:
        """Whether the token after so many may be the end of the text."""
        return index >= self.params.min_new_tokens

    def barred(self, index: int) -> set[int]:
        """Tokens that a ban forbids after so many."""
        return self._barred.get(index, set())

    def script(self, index: int, most: int) -> Sequence[int]:
        """Tokens that must come after so many, at most so many of them; none where tokens are drawn."""
        return ()

    def opinions(self, token_ids: Sequence[int], state: Tensor) -> OpinionReader:
        """What judges and rewards make of the text with these tokens, and this state of its reward branch, `(D,)`."""
        return self._opinions(self.prompt_ids, token_ids, state)

    @property
    def room(self) -> int:
        """Tokens that may still come."""
        return min(self.params.max_new_tokens, self._room) - len(self.token_ids)

    @property
    def at_rest(self) -> bool:
        """Whether the mix was not moved lately."""
        return time.perf_counter() - self._last_move >= REST_SECONDS

    @property
    def moved(self) -> bool:
        """Whether another mix is wanted than the one that rows have, and matters, or rewards are to steer otherwise."""
        return (self._follows and self._wanted[0] is not self._current) or self._prepared is not self.prepared

    def turn(self, write: Callable[[Sequence[tuple[Mix, tuple[float, ...]]]], None]) -> bool:
        """Bring the rows to the mix now wanted; whether what follows the sliders must be read anew.

        Args:
            write: given each reading's mix and coefficients; called in every round, since rows may be new.
        """
        mix, rows = self._wanted
        self.prepared = self._prepared
        start = time.perf_counter()
        write(rows)
        former, self._current = self._current, mix
        if mix is not former:
            self._apply_us = 1e6 * (time.perf_counter() - start)
            if self._follows and self.token_ids and mix != former:
                self._last_move = start
                if self.on_mix_change == "restart":
                    self.begin()
                    return True
                self._stale = self.on_mix_change == "keep"
                return not self._stale
        if self._stale and self.at_rest:
            self._stale = False
            return True
        return False

    def take(self, drawn: Drawn) -> Step:
        """Write down the next token, or take back a banned word that it completes."""
        token = drawn.token
        self._nats, self._most_nats = self._nats + drawn.nats, max(self._most_nats, drawn.nats)
        self._last_at = time.perf_counter()
        self._first_at = self._first_at or self._last_at
        self._written += 1
        text, stopped = self._write(token)
        if stopped:
            self.finish_reason = "stop"
        elif self.room <= 0:
            self.finish_reason = "length" if len(self.token_ids) >= self.params.max_new_tokens else "context"
        if self.finish_reason:
            rest = self._stream.flush()
            self.text, text = self.text + rest, text + rest
        exact = not self._stale
        self._under.append(DrawnUnder(self._current, self.prepared.steering, exact))
        self._all_exact = self._all_exact and exact
        at = self._bans.find(self.text, ended=self.finish_reason is not None)
        if at is not None:
            return self._take_back(at, drawn, len(text), exact)
        key, index = self._current.key, len(self.token_ids) - 1
        guessed, nats, levels = drawn.guessed, drawn.nats, drawn.levels
        return Step(token, text, drawn.logprob, key, exact, index, guessed=guessed, nats=nats, levels=levels)

    def _take_back(self, at: int, drawn: Drawn, fresh: int, exact: bool) -> Step:
        """Cut the text before the word that begins at a character, and bar the token that began it there."""
        first = next((i for i, end in enumerate(self._ends) if end > at), len(self.token_ids) - 1)
        begun, shown, dropped = self.token_ids[first], len(self.text) - fresh, len(self.token_ids) - first
        self.finish_reason = None
        self._cut(first)
        self._barred = {index: barred for index, barred in self._barred.items() if index <= first}
        self._barred.setdefault(first, set()).add(begun)
        self._rewinds += 1
        if self._rewinds >= MOST_REWINDS:
            self.finish_reason = "ban"
        rewind = max(0, shown - len(self.text))
        key, nats, levels = self._current.key, drawn.nats, drawn.levels
        return Step(drawn.token, "", drawn.logprob, key, exact, first, rewind, dropped, nats=nats, levels=levels)
