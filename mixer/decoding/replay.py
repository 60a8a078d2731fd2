"""A text that stands already, gone through once more under any mixes: how likely was each of its tokens?

Its tokens are given, and nothing is drawn; all else is as in any text: formulas, judges, rewards, what is read anew and
what is kept, and what else is in the batch. Knows no attributes and nothing of what the figures are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from torch import Tensor

from mixer.decoding.evaluate import OpinionReader
from mixer.decoding.session import BranchPrompt, Segment, Session, Step
from mixer.errors import InvalidValue
from mixer.formula.bind import BoundFormula
from mixer.model.model import Model
from mixer.rewards.controller import RewardController
from mixer.values.sampling import SamplingParams


class Replay(Session):
    """A session that goes through a text instead of writing one; made by `Desk.replay`.

    Its steps are those of the text, with the log-probabilities of its tokens. Where nothing was stale (`exact`), a
    token is as likely as from a full pass over all that stands before it under the mix of its segment. In a segment
    that is not exact, the keys and values that former segments left are used, as `keep` does in a text being written.
    So `Session.segments` under the formula, the temperature and the fewest tokens of their session have that
    session's `Step.logprob`s again, but for words that a ban took back: what it forbade in their places is not known.

    Raises:
        InvalidValue: there are no tokens, one of them is none of the model's, a token that ends texts stands inside, or
            they do not fit behind the prompt.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        model: Model,
        prompt: str,
        params: SamplingParams,
        run: Callable[[Session], Iterator[tuple[Step | None, ...]]],
        bound: BoundFormula,
        branch_prompts: Sequence[BranchPrompt],
        opinions: Callable[[Sequence[int], Sequence[int], Tensor], OpinionReader],
        controller: RewardController,
    ) -> None:
        self._script = [segment for segment in segments if segment.token_ids]
        self._tokens = [token for segment in self._script for token in segment.token_ids]
        self._stops = list(accumulate(len(segment.token_ids) for segment in self._script))
        self._place = 0
        count = len(self._tokens)
        if not count:
            raise InvalidValue("The text has no tokens.", "Give at least one.")
        fewest = min(params.min_new_tokens, count)
        first = self._script[0]
        super().__init__(
            model,
            prompt,
            first.mix,
            replace(params, max_new_tokens=count, min_new_tokens=fewest, stop=(), seed=0),
            "keep",
            run,
            replace(bound, bans=(), draft=None),  # its words have passed the bans
            branch_prompts,
            opinions,
            controller,
            first.steering,
        )
        for token in self._tokens:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.vocab:
                raise InvalidValue(f"{str(token)[:40]!r} is no token.", f"Give whole numbers below {self.vocab}.")
        if self.ends.intersection(self._tokens[:-1]):
            raise InvalidValue("A token that ends texts stands inside this one.", "Leave out what comes after it.")
        if self.room < count:
            hint = "Give a shorter text."
            raise InvalidValue(f"The text has {count:,} tokens, and behind this prompt {self.room:,} fit.", hint)

    def turn(self, write: Callable[..., None]) -> bool:
        """See `Session.turn`; before that, what the segment at hand was written under comes into force."""
        while self._stops[self._place] <= len(self.token_ids):
            self._place += 1
        segment = self._script[self._place]
        if segment.mix is not self.mix:
            self.mix = segment.mix
        if segment.steering is not self.steering:
            self.steering = segment.steering
        self.on_mix_change = "refill" if segment.exact else "keep"
        return super().turn(write)

    @property
    def at_rest(self) -> bool:
        """Whether what is stale is to be read anew: not by the clock, but where it was."""
        return self._script[self._place].exact

    def script(self, index: int, most: int) -> Sequence[int]:
        """See `Session.script`; never beyond the segment at hand."""
        return self._tokens[index : min(index + most, self._stops[self._place])]
