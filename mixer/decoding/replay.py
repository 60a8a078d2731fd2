"""A replay: a given text gone through once more under any mixes. How likely was each of its tokens?

Its tokens are given, and nothing is drawn. All else is as in any text: formulas, judges, rewards, what is computed anew
and what is kept, and what else is in the batch. Knows no attributes, and nothing of what the figures are for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from mixer.decoding.prompted import PromptedFormula
from mixer.decoding.session import Session, Wanted
from mixer.decoding.steps import Segment
from mixer.errors import InvalidValue
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.decoding.scheduler import Scheduler


class Replay(Session):
    """A session that goes through a text instead of writing one; made by `Desk.replay`.

    Its steps are those of the text, with the log-probabilities of its tokens. In an exact segment a token is as likely
    as from a full pass, under the mix of its segment, over everything that stands before it. In a segment that is not
    exact, the keys and values of former segments are used, as `keep` does in a text being written. So
    `Session.segments`, replayed under the formula and the parameters of their session (temperature, `min_new_tokens`,
    bias and penalties count), give that session's `Step.logprob`s again. The exception is words that a ban took back:
    a segment does not record what was forbidden in their places.

    Raises:
        InvalidValue: there are no tokens, one of them is none of the model's, a token that ends texts stands inside, or
            they do not fit behind the prompt.
    """

    def __init__(
        self, segments: Sequence[Segment], prompted: PromptedFormula, params: SamplingParams, scheduler: Scheduler
    ) -> None:
        self._segments = [segment for segment in segments if segment.token_ids]
        self._tokens = [token for segment in self._segments for token in segment.token_ids]
        self._stops = list(accumulate(len(segment.token_ids) for segment in self._segments))
        count = len(self._tokens)
        if not count:
            raise InvalidValue("The text has no tokens.", "Give at least one.")
        fewest = min(params.min_new_tokens, count)
        super().__init__(
            # Its words have passed the bans already.
            replace(prompted, bound=replace(prompted.bound, bans=(), draft=None)),
            self._segments[0].mix,
            replace(params, max_new_tokens=count, min_new_tokens=fewest, stop=(), seed=0),
            "keep",
            scheduler,
            self._segments[0].steering,
        )
        vocab = prompted.model.vocab
        for token in self._tokens:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab:
                raise InvalidValue(f"{str(token)[:40]!r} is no token.", f"Give whole numbers below {vocab}.")
        if self.state.ends.intersection(self._tokens[:-1]):
            raise InvalidValue("A token that ends texts stands inside this one.", "Leave out what comes after it.")
        if self.state.room < count:
            hint, room = "Give a shorter text.", self.state.room
            raise InvalidValue(f"The text has {count:,} tokens, and behind this prompt {room:,} fit.", hint)

    @property
    def wanted(self) -> Wanted:
        """See `Session.wanted`: what the segment of the next token was written under."""
        segment = self._segments[self._place(len(self.state.token_ids))]
        if segment.mix is not self.mix:
            self.mix = segment.mix
        if segment.steering is not self.steering:
            self.steering = segment.steering
        mode = "refill" if segment.exact else "keep"
        return super().wanted._replace(on_mix_change=mode, refill=segment.exact)

    def script(self, index: int, most: int) -> list[int]:
        """See `Session.script`; never beyond the segment of the next token."""
        return self._tokens[index : min(index + most, self._stops[self._place(len(self.state.token_ids))])]

    def _place(self, index: int) -> int:
        """The segment that holds a token; the last one where the text has ended."""
        return min(bisect_right(self._stops, index), len(self._stops) - 1)
