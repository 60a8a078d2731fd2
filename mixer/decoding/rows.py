"""A text's place in the batch: a row for each branch of its formula, and what is known of its next tokens.

A round begins with the text as it stands and ends with one or more drawn tokens. In between, rows are read up to the
text's end, guesses are made and verified; the mix stays as it was when the round began. The scheduler prepares rounds
and reads rows under the models' locks, and draws outside them. Knows rows and distributions; not who else is in the
batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixer.decoding.evaluate import OpinionReader, evaluate, without_opinions
from mixer.decoding.session import BranchPrompt, Drawn, Session, Step
from mixer.decoding.speculation import repeated
from mixer.errors import FormulaError
from mixer.formula.bind import BASE, BoundFormula, Branch
from mixer.formula.tree import Term
from mixer.model.prefix_cache import PrefixCache
from mixer.rewards.controller import SteeredLogits
from mixer.values.mix import Mix

SCRIPTED = 16  # tokens of one round of a text that stands already
NOTHING = torch.zeros(0)
UNSTEERED = SteeredLogits(NOTHING)


@dataclass(eq=False)
class Row:
    """One branch in its row.

    Attributes:
        filled: tokens whose keys and values the row holds.
        logits: `(V,)` each, after the last token of the text and after each guess, as far as they were computed.
        states: `(D,)` each, that they are products of.
        strengths: of fused heads, `(H,)`; empty before the first round, since another text may have left its own.
    """

    branch_prompt: BranchPrompt
    row: int
    mix: Mix | None = None
    strengths: tuple[float, ...] | None = ()
    filled: int = 0
    logits: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    @property
    def key(self) -> str:
        """What its keys and values depend on besides the tokens."""
        return f"{self.branch_prompt.branch.model or ''}:{self.mix.key if self.mix else ''}"

    def begin(self, tokens: int) -> None:
        """A round of a text of so many tokens; its last token is read in this round."""
        self.logits, self.states = [], []
        self.filled = min(self.filled, self.last(tokens))

    def last(self, tokens: int) -> int:
        """Position of a text's last token, the prompt's if there is none."""
        return len(self.branch_prompt.prompt_ids) + tokens - 1

    def ids(self, tokens: Sequence[int], start: int, stop: int) -> list[int]:
        """The row's tokens from `start` to `stop`, where the text's are `tokens`."""
        prompt = self.branch_prompt.prompt_ids
        return [*prompt[start:stop], *tokens[max(0, start - len(prompt)) : max(0, stop - len(prompt))]]


class RowGroup:
    """A session's rows.

    Attributes:
        step: the session's next step, once it is there.
        error: what made that step impossible.
        last_row: the highest of its rows.
    """

    def __init__(self, session: Session, rows: Sequence[int]) -> None:
        self.session = session
        self.rows_ = [Row(branch_prompt, row) for branch_prompt, row in zip(session.branch_prompts, rows, strict=True)]
        self.last_row = max(rows)
        speculation = session.speculation
        self._drafted = self._of(speculation.draft) if speculation and speculation.draft else []
        self._targeted = self._of(session.bound)
        self._origin = next((row_ for row_ in self.rows_ if row_.branch_prompt.branch == BASE), None)
        reward_branch = session.bound.reward_branch
        self._heard = next((row_ for row_ in self._targeted if row_.branch_prompt.branch == reward_branch), None)
        self.step: Step | None = None
        self.error: Exception | None = None
        self._underway = False
        self._ahead: deque[Drawn] = deque()
        self._guess: list[int] = []
        self._length = 0  # guesses that this round is to have
        self._drawn: list[Drawn] = []
        self._steered: dict[int, SteeredLogits] = {}  # what was made of the logits after so many guesses
        self._seconds = 0.0  # of this round's passes of the formula itself

    def _of(self, bound: BoundFormula) -> list[Row]:
        """The rows of a formula."""
        return [row_ for row_ in self.rows_ if row_.branch_prompt.branch in bound.branches]

    @property
    def ready(self) -> bool:
        """Whether it has its step or will get none."""
        return bool(self.step or self.error or self.session.finish_reason)

    def serve(self, fresh: bool = False) -> None:
        """Hand out a step from tokens that are known already.

        Args:
            fresh: whether they were drawn just now; older ones are forgotten where the mix was moved since.
        """
        if self.ready or not self._ahead:
            return
        if self.session.moved and not fresh:
            self._ahead.clear()
            return
        drawn = self._ahead.popleft()
        try:
            self.step = self.session.take(drawn)
        except Exception as error:  # its own reader's, whoever computes
            self.error = error
        if self.step is None or self.step.dropped:
            self._ahead.clear()

    def prepare(self, prefixes: PrefixCache) -> None:
        """Begin a round, unless one is under way."""
        if self._underway:
            return
        session = self.session
        reread = session.turn(self._write_gates)
        for row_ in self.rows_:
            if reread and row_.branch_prompt.branch.follows:
                row_.filled = 0
            row_.begin(len(session.token_ids))
            if row_.filled == 0:
                known, snapshot = prefixes.find(row_.key, [*row_.branch_prompt.prompt_ids, *session.token_ids])
                if known:
                    row_.filled = min(known, row_.last(len(session.token_ids)))
                    row_.branch_prompt.model.backend.restore(row_.row, snapshot, row_.filled)
        self._guess, self._drawn, self._length, self._seconds, self._steered = [], [], 0, 0.0, {}
        self._guess += session.script(len(session.token_ids), SCRIPTED)[:-1]  # the last one needs no reading
        if session.speculation and session.token_ids:  # the first token is wanted soon
            self._length = session.speculation.length(session.room - 1)
            if session.speculation.draft is None:
                self._guess = repeated([*session.prompt_ids, *session.token_ids], self._length)
                self._length = len(self._guess)
        self._underway = True

    def _write_gates(self, wanted: Sequence[tuple[Mix, tuple[float, ...]]]) -> None:
        for row_, (mix, coefficients) in zip(self.rows_, wanted, strict=True):
            if row_.mix is not mix:
                row_.mix = mix
                row_.branch_prompt.model.backend.gate[row_.row] = coefficients
            strengths = self.session.prepared.strengths if row_ is self._heard else None
            if row_.strengths != strengths:
                row_.strengths = strengths
                row_.branch_prompt.model.backend.head_gate[row_.row] = strengths

    @property
    def drafting(self) -> bool:
        """Whether the draft is to guess a further token."""
        return len(self._guess) < self._length

    @property
    def _bound(self) -> BoundFormula:
        """The formula whose value is to be found next."""
        speculation = self.session.speculation
        return speculation.draft if self.drafting and speculation and speculation.draft else self.session.bound

    @property
    def _active(self) -> list[Row]:
        """The rows that it takes to go on."""
        if self.drafting:
            return self._drafted
        origin = self._origin if self.session.prepared.steering.whole else None
        return [*self._targeted, origin] if origin and origin not in self._targeted else self._targeted

    @property
    def tokens(self) -> list[int]:
        """The text's tokens, and those guessed after them."""
        return [*self.session.token_ids, *self._guess]

    def pending(self) -> list[tuple[Row, int]]:
        """Rows that are still to be read, and up to where."""
        tokens = len(self.session.token_ids) + len(self._guess)
        stops = [(row_, len(row_.branch_prompt.prompt_ids) + tokens) for row_ in self._active]
        return [(row_, stop) for row_, stop in stops if row_.filled < stop]

    def passed(self, seconds: float) -> None:
        """A pass that brought these rows on took so long."""
        if self.drafting and self.session.speculation:
            self.session.speculation.saw_draft(seconds)
        else:
            self._seconds += seconds

    @property
    def read_up(self) -> bool:
        """Whether a token can be drawn."""
        return not self.pending()

    def values(self) -> Iterator[tuple[int, Tensor]]:
        """(how many tokens are before it, logits `(V,)`) of each token that can be drawn now.

        All at once, or one where the next depends on judges, who are asked only as far as guesses hold.
        """
        session = self.session
        done = len(self._guess) if self.drafting else len(self._drawn)
        reads = self._bound.needs_opinions or bool(session.prepared.models)
        last = done if self.drafting or reads else len(self._guess)
        try:
            values = self._evaluated(done, last)
        except FormulaError:  # which may lie behind a guess that fails
            if last == done:
                raise
            values = self._evaluated(done, done)
        for place, own in enumerate(values, done):
            index = len(session.token_ids) + place
            if barred := session.barred(index):
                own = _without(own, barred)
                if own.max() == -torch.inf:
                    session.finish_reason = "ban"
                    return
            if not self.drafting and self._steers:
                # What must not be drawn is not to be steered either: where the others are cut, nothing would be left.
                if not session.may_end(index) and (rest := _without(own, session.ends)).max() > -torch.inf:
                    own = rest
                self._steered[place] = self._steer(own, place)
                own = self._steered[place].logits
            yield index, own

    def _evaluated(self, first: int, last: int) -> Sequence[Tensor]:
        """Logits `(V,)` after the first to the last of the guesses, counted from 1; 0 is the text as it stands."""
        bound = self._bound
        if isinstance(bound.formula.result, Term):  # its one row says it
            return self._active[0].logits[first : last + 1]
        rows = {row_.branch_prompt.branch: row_.logits[first : last + 1] for row_ in self._active}
        if first < last:
            logprobs = {branch: torch.log_softmax(torch.stack(logits), -1) for branch, logits in rows.items()}
            return [*evaluate(bound, logprobs)]
        return [evaluate(bound, self._logprobs(first), self._opinions(first) if bound.needs_opinions else None)]

    def _logprobs(self, place: int) -> dict[Branch, Tensor]:
        """Of every active row after so many guesses, `(V,)` each."""
        return {row_.branch_prompt.branch: torch.log_softmax(row_.logits[place], -1) for row_ in self._active}

    def _opinions(self, place: int) -> OpinionReader:
        """Who reads the text with so many guesses."""
        tokens = self.tokens[: len(self.session.token_ids) + place]
        heard = (row_ for row_ in self._active if row_.branch_prompt.branch == self._bound.reward_branch)
        return self.session.opinions(tokens, next((row_.states[place] for row_ in heard), NOTHING))

    @property
    def _steers(self) -> bool:
        """Whether there is anything that steers, or that a budget limits."""
        prepared, steering = self.session.prepared, self.session.prepared.steering
        counted = steering.whole or self.session.bound.needs_opinions
        return prepared.moves or (steering.budget is not None and counted)

    def _steer(self, logits: Tensor, place: int) -> SteeredLogits:
        """What the session's steering makes of the logits after so many guesses."""
        session = self.session
        prepared, bound = session.prepared, session.bound
        plain = without_opinions(bound, self._logprobs(place), self._opinions(place)) if bound.judge_goals else None
        if plain is not None:
            plain = plain.masked_fill(logits == -torch.inf, -torch.inf)
        origin = self._origin.logits[place] if prepared.steering.whole and self._origin else None
        state = self._heard.states[place] if self._heard else NOTHING
        ids = [*session.prompt_ids, *self.tokens[: len(session.token_ids) + place]] if prepared.models else ()
        return session.controller.steer(logits, state, prepared, session.params.temperature, ids, plain, origin)

    def receive(self, drawn: Sequence[tuple[int, float]]) -> bool:
        """Take what was drawn from `values`; whether there is more to draw without a further pass."""
        if self.drafting:
            token = drawn[0][0]
            self._guess.append(token)
            if token in self.session.ends:
                self._length = len(self._guess)
            return False
        for token, logprob in drawn:
            place = len(self._drawn)
            held = place < len(self._guess) and self._guess[place] == token
            steered = self._steered.get(place, UNSTEERED)
            self._drawn.append(Drawn(token, logprob, held, steered.nats, steered.levels))
            if not held or token in self.session.ends:
                self._finish()
                return False
        return True

    def _finish(self) -> None:
        """End the round: what was drawn is the text's next, and rows hold no guess that failed."""
        accepted = sum(drawn.guessed for drawn in self._drawn)
        for row_ in self.rows_:
            row_.filled = min(row_.filled, row_.last(len(self.session.token_ids)) + 1 + accepted)
            row_.logits, row_.states = [], []
        if self.session.speculation and self.session.token_ids:
            self.session.speculation.saw(len(self._guess), accepted, self._seconds)
        self._ahead.extend(self._drawn)
        self._underway = False

    def fail(self, error: Exception) -> None:
        """Give the session's reader an error in place of a step."""
        self.error, self._underway = error, False


def _without(logits: Tensor, tokens: Collection[int]) -> Tensor:
    """Logits `(V,)` with some tokens left out."""
    return logits.index_fill(0, torch.tensor(sorted(tokens), device=logits.device), -torch.inf)
