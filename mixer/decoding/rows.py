"""A text's place in the batch: a row for each branch of its formula, and what is known of its next tokens.

A round begins with the text as it stands and ends with one or more sampled tokens. In between, rows are computed up to
the text's end, guesses are made and verified; the mix stays as it was when the round began. The step runner prepares
rounds and runs forward passes under the models' locks, and samples outside them. Knows rows and distributions; not who
else is in the batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixer.decoding.evaluate import evaluate
from mixer.decoding.prompted import NO_STATE, BranchPrompt
from mixer.decoding.session import Session, Wanted
from mixer.decoding.speculation import repeated
from mixer.decoding.steps import Drawn, DrawnUnder, Step
from mixer.errors import FormulaError
from mixer.formula.bind import BASE, BoundFormula, Branch
from mixer.formula.tree import Term
from mixer.model.prefix_cache import PrefixCache
from mixer.rewards.controller import SteeredLogits
from mixer.values.mix import Mix

SCRIPTED = 16  # tokens that one round of a replay brings
REST_SECONDS = 0.2  # after so long without a move, `keep` computes stale keys and values anew
UNSTEERED = SteeredLogits(NO_STATE)


@dataclass(eq=False)
class Row:
    """One branch of a text in one row of its model's batch. Its row group alone writes to it.

    Attributes:
        index: the row's number in the model's KV cache and gate.
        mix: the mix that its gate holds; None before the first round.
        filled: tokens whose keys and values the KV cache holds.
        logits: `(V,)` each, after the last token of the text and after each guess, as far as they were computed.
        states: hidden states, `(D,)` each, that these logits are products of.
        strengths: of fused heads, `(H,)`; empty before the first round, since another text may have left its own.
    """

    branch_prompt: BranchPrompt
    index: int
    mix: Mix | None = None
    strengths: tuple[float, ...] | None = ()
    filled: int = 0
    logits: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    @property
    def branch(self) -> Branch:
        """The branch that it computes."""
        return self.branch_prompt.branch

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The tokens before the text."""
        return self.branch_prompt.prompt_ids

    @property
    def key(self) -> str:
        """What its keys and values depend on besides the tokens."""
        return f"{self.branch.model or ''}:{self.mix.key if self.mix else ''}"

    def last(self, tokens: int) -> int:
        """Position of the last token of a text of so many tokens; of the prompt's last one if there are none."""
        return len(self.prompt_ids) + tokens - 1

    def forget(self, filled: int) -> None:
        """Keep at most the first `filled` keys and values, and no logits."""
        self.logits, self.states = [], []
        self.filled = min(self.filled, filled)

    def ids(self, tokens: Sequence[int], start: int, stop: int) -> list[int]:
        """The row's tokens from `start` to `stop`, where the text's tokens are `tokens`."""
        prompt = self.prompt_ids
        return [*prompt[start:stop], *tokens[max(0, start - len(prompt)) : max(0, stop - len(prompt))]]


class RowGroup:
    """The rows of one session.

    Args:
        indices: numbers of the rows, one for each branch prompt of the session.
        rest_seconds: after so long without a move, `keep` computes stale keys and values anew.

    Attributes:
        step: the session's next step, once it is there.
        error: what made that step impossible.
        rest_seconds: as given; may be changed.
        last_index: the highest of its rows' numbers.
    """

    def __init__(self, session: Session, indices: Sequence[int], rest_seconds: float = REST_SECONDS) -> None:
        self.session = session
        prompted = session.prompted
        self.rows = [Row(one, index) for one, index in zip(prompted.branch_prompts, indices, strict=True)]
        self.last_index = max(indices)
        speculation, bound = session.speculation, prompted.bound
        self._draft_rows = self._of(speculation.draft) if speculation and speculation.draft else []
        self._formula_rows = self._of(bound)
        self._base_row = next((row for row in self.rows if row.branch == BASE), None)
        self._reward_row = next((row for row in self._formula_rows if row.branch == bound.reward_branch), None)
        self.step: Step | None = None
        self.error: Exception | None = None
        self._applied: Wanted = session.wanted  # what this round is computed under
        self._stale = False  # whether keys and values of another mix are in use
        self.rest_seconds, self._moved_at = rest_seconds, -rest_seconds
        self._underway = False
        self._ahead: deque[Drawn] = deque()
        self._guess: list[int] = []
        self._length = 0  # guesses that this round is to have
        self._drawn: list[Drawn] = []
        self._steered: dict[int, SteeredLogits] = {}  # steered logits, by the number of guesses before them
        self._seconds = 0.0  # of this round's passes of the formula itself

    def _of(self, bound: BoundFormula) -> list[Row]:
        """The rows of a formula."""
        return [row for row in self.rows if row.branch in bound.branches]

    @property
    def exact(self) -> bool:
        """Whether all keys and values in use were computed under the mix of this round."""
        return not self._stale

    @property
    def ready(self) -> bool:
        """Whether it has its step or will get none."""
        return bool(self.step or self.error or self.session.finish_reason)

    @property
    def at_rest(self) -> bool:
        """Whether its mix has not moved for a while."""
        refill = self._applied.refill
        return time.perf_counter() - self._moved_at >= self.rest_seconds if refill is None else refill

    def serve(self, fresh: bool = False) -> None:
        """Hand out a step from tokens that are sampled already.

        Args:
            fresh: whether they were sampled just now; older ones are dropped where mix or steering has moved since.
        """
        if self.ready or not self._ahead:
            return
        if not fresh and self._has_moved(self.session.wanted):
            self._ahead.clear()
            return
        applied = self._applied
        under = DrawnUnder(applied.mix, applied.prepared.steering, not self._stale)
        try:
            self.step = self.session.state.append(self._ahead.popleft(), under)
        except Exception as error:  # it belongs to this session, whichever thread computes
            self.error = error
        if self.step is None or self.step.dropped:
            self._ahead.clear()

    def _has_moved(self, wanted: Wanted) -> bool:
        """Whether what the session wants differs from what its rows have."""
        applied = self._applied
        return (self.session.prompted.follows and wanted.mix is not applied.mix) or (
            wanted.prepared is not applied.prepared
        )

    def begin_round(self, prefixes: PrefixCache) -> None:
        """Begin a round, unless one is under way: bring the rows to what the session wants."""
        if self._underway:
            return
        session = self.session
        stale = self._apply(session.wanted)
        tokens = session.state.token_ids
        for row in self.rows:
            if stale and row.branch.follows:
                row.filled = 0
            row.forget(row.last(len(tokens)))  # the last token is computed in this round
            if row.filled == 0:
                known, snapshot = prefixes.find(row.key, [*row.prompt_ids, *tokens])
                if known:
                    row.filled = min(known, row.last(len(tokens)))
                    row.branch_prompt.model.backend.restore(row.index, snapshot, row.filled)
        self._guess, self._drawn, self._length, self._seconds, self._steered = [], [], 0, 0.0, {}
        self._guess += session.script(len(tokens), SCRIPTED)[:-1]  # the last one needs no pass
        if session.speculation and tokens:  # the first token is wanted soon, so nothing is guessed before it
            self._length = session.speculation.length(session.state.room - 1)
            if session.speculation.draft is None:
                self._guess = repeated([*session.prompted.prompt_ids, *tokens], self._length)
                self._length = len(self._guess)
        self._underway = True

    def _apply(self, wanted: Wanted) -> bool:
        """Write gates for what the session wants; whether rows that follow the sliders must be computed anew."""
        former, self._applied = self._applied, wanted
        start = time.perf_counter()
        for row, (mix, coefficients) in zip(self.rows, wanted.rows, strict=True):
            backend = row.branch_prompt.model.backend
            if row.mix is not mix:
                row.mix = mix
                backend.gate[row.index] = coefficients
            strengths = wanted.prepared.strengths if row is self._reward_row else None
            if row.strengths != strengths:
                row.strengths = strengths
                backend.head_gate[row.index] = strengths
        if wanted.mix is not former.mix:
            state = self.session.state
            state.apply_us = 1e6 * (time.perf_counter() - start)
            cached = any(row.filled for row in self.rows if row.branch.follows)
            if cached and wanted.mix != former.mix:
                self._moved_at = start
                if wanted.on_mix_change == "restart":
                    state.begin()
                    self._stale = False
                    return True
                self._stale = wanted.on_mix_change == "keep"
                return not self._stale
        if self._stale and self.at_rest:
            self._stale = False
            return True
        return False

    @property
    def drafting(self) -> bool:
        """Whether the draft is to guess a further token."""
        return len(self._guess) < self._length

    @property
    def _bound(self) -> BoundFormula:
        """The formula that is evaluated next: the draft's or the session's."""
        speculation, bound = self.session.speculation, self.session.prompted.bound
        return speculation.draft if self.drafting and speculation and speculation.draft else bound

    @property
    def _active_rows(self) -> list[Row]:
        """The rows that are needed to go on."""
        if self.drafting:
            return self._draft_rows
        base, rows = self._base_row, self._formula_rows
        return [*rows, base] if base and self._applied.prepared.steering.whole and base not in rows else rows

    @property
    def tokens(self) -> list[int]:
        """The text's tokens, and those guessed after them."""
        return [*self.session.state.token_ids, *self._guess]

    def pending(self) -> list[tuple[Row, int]]:
        """Rows that are still to be computed, and up to which position."""
        tokens = len(self.session.state.token_ids) + len(self._guess)
        stops = [(row, len(row.prompt_ids) + tokens) for row in self._active_rows]
        return [(row, stop) for row, stop in stops if row.filled < stop]

    @property
    def can_sample(self) -> bool:
        """Whether all logits are there that the next token needs."""
        return not self.pending()

    def receive(self, row: Row, stop: int, logits: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        """Take what a forward pass computed of one row up to a position: logits `(V,)` and states `(D,)`."""
        row.filled = stop
        row.logits += logits
        row.states += states

    def passed(self, seconds: float) -> None:
        """Note how long a pass took that computed some of these rows."""
        if self.drafting and self.session.speculation:
            self.session.speculation.saw_draft(seconds)
        else:
            self._seconds += seconds

    def samples(self) -> Iterator[tuple[int, Tensor]]:
        """(number of tokens before it, logits `(V,)`) of each token that can be sampled now.

        All at once; or one alone where judges or reward models are asked, who read a guess only after it has held.
        """
        state = self.session.state
        done = len(self._guess) if self.drafting else len(self._drawn)
        one_by_one = self._bound.needs_opinions or bool(self._applied.prepared.models)
        last = done if self.drafting or one_by_one else len(self._guess)
        try:
            values = self._evaluated(done, last)
        except FormulaError:  # the place may lie behind a guess that fails
            if self.drafting:  # a draft changes no text, so its faults end none
                self._stop_guessing()
                return
            if last == done:
                raise
            values = self._evaluated(done, done)
        for place, logits in enumerate(values, done):
            index = len(self.session.state.token_ids) + place
            if barred := state.barred(index):
                logits = _without(logits, barred)
                if logits.max() == -torch.inf:
                    if self.drafting:
                        self._stop_guessing()
                    else:
                        state.give_up()
                    return
            if penalties := self.session.penalties:
                logits = penalties(logits, self._text_with(place))
            if not self.drafting and self._steers:
                # A token that must not be drawn is not steered either: else a cut to few tokens might leave none.
                if not state.may_end(index) and (rest := _without(logits, state.ends)).max() > -torch.inf:
                    logits = rest
                self._steered[place] = self._steer(logits, place)
                logits = self._steered[place].logits
            yield index, logits

    def _evaluated(self, first: int, last: int) -> Sequence[Tensor]:
        """Logits `(V,)` after the first to the last of the guesses, counted from 1; 0 is the text as it stands."""
        bound = self._bound
        if isinstance(bound.formula.result, Term):  # the logits of its one row are the value
            return self._active_rows[0].logits[first : last + 1]
        if first == last:
            state = next(
                (row.states[first] for row in self._active_rows if row.branch == bound.reward_branch), NO_STATE
            )
            return [self.session.prompted.value(bound, self._logprobs(first), self._text_with(first), state)]
        rows = {row.branch: row.logits[first : last + 1] for row in self._active_rows}
        logprobs = {branch: torch.log_softmax(torch.stack(logits), -1) for branch, logits in rows.items()}
        return [*evaluate(bound, logprobs)]

    def _logprobs(self, place: int) -> dict[Branch, Tensor]:
        """Log-probabilities of every active row after so many guesses, `(V,)` each."""
        return {row.branch: torch.log_softmax(row.logits[place], -1) for row in self._active_rows}

    def _text_with(self, guesses: int) -> list[int]:
        """The text's tokens and so many guesses."""
        return self.tokens[: len(self.session.state.token_ids) + guesses]

    @property
    def _steers(self) -> bool:
        """Whether anything steers, or a budget limits anything."""
        prepared, bound = self._applied.prepared, self.session.prompted.bound
        steering = prepared.steering
        return prepared.moves or (steering.budget is not None and (steering.whole or bool(bound.judge_goals)))

    def _steer(self, logits: Tensor, place: int) -> SteeredLogits:
        """The steering applied to the logits after so many guesses."""
        session, prepared = self.session, self._applied.prepared
        logprobs = self._logprobs(place) if session.prompted.bound.judge_goals else None
        origin = self._base_row.logits[place] if prepared.steering.whole and self._base_row else None
        state = self._reward_row.states[place] if self._reward_row else NO_STATE
        given = state, prepared, session.params.temperature, origin, session.penalties
        return session.prompted.steered(logits, logprobs, self._text_with(place), *given)

    def accept(self, sampled: Sequence[tuple[int, float]]) -> bool:
        """Take what was sampled from `samples`: tokens with log-probabilities. Whether more can be sampled now."""
        ends = self.session.state.ends
        if self.drafting:
            token = sampled[0][0]
            self._guess.append(token)
            if token in ends:
                self._stop_guessing()
            return False
        for token, logprob in sampled:
            place = len(self._drawn)
            held = place < len(self._guess) and self._guess[place] == token
            steered = self._steered.get(place, UNSTEERED)
            self._drawn.append(Drawn(token, logprob, held, steered.nats, steered.levels))
            if not held or token in ends:
                self._finish_round()
                return False
        return True

    def _stop_guessing(self) -> None:
        """Go on with the guesses that are there."""
        self._length = len(self._guess)

    def _finish_round(self) -> None:
        """End the round: the sampled tokens come next in the text, and rows hold no guess that failed."""
        accepted = sum(drawn.guessed for drawn in self._drawn)
        for row in self.rows:
            row.forget(row.last(len(self.session.state.token_ids)) + 1 + accepted)
        if self.session.speculation and self.session.state.token_ids:
            self.session.speculation.saw(len(self._guess), accepted, self._seconds)
        self._ahead.extend(self._drawn)
        self._underway = False

    def fail(self, error: Exception) -> None:
        """Give the session an error in place of its next step."""
        self.error, self._underway = error, False


def _without(logits: Tensor, tokens: Collection[int]) -> Tensor:
    """Logits `(V,)` with some tokens left out."""
    return logits.index_fill(0, torch.tensor(sorted(tokens), device=logits.device), -torch.inf)
