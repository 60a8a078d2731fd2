"""A session: one text being written, as the person who steers it holds it.

Anyone may set a session's mix or steering from any thread; its row group reads both at the beginning of every round.
Knows nothing of files, attributes or pages, nor of what else is being written.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, get_args

from mixer.decoding.penalties import penalties
from mixer.decoding.prompted import PromptedFormula
from mixer.decoding.speculation import Speculation
from mixer.decoding.steps import FinishReason, OnMixChange, Segment, Stats, Step
from mixer.decoding.text_state import TextState
from mixer.errors import InvalidValue, UnknownName
from mixer.formula.bind import BASE
from mixer.rewards.controller import PreparedSteering
from mixer.values.mix import Mix
from mixer.values.sampling import SamplingParams
from mixer.values.steering import REST, Steering

if TYPE_CHECKING:
    from mixer.decoding.scheduler import Scheduler


class Wanted(NamedTuple):
    """What a session wants from its next token on.

    Attributes:
        mix: the sliders' mix.
        rows: mix and coefficients, `(K,)`, of every row, in the order of the branch prompts.
        prepared: the steering.
        on_mix_change: what becomes of keys and values when the mix moves; see `Desk.session`.
        refill: whether stale keys and values are to be computed anew now; None: once the mix has rested for a while.
    """

    mix: Mix
    rows: tuple[tuple[Mix, tuple[float, ...]], ...]
    prepared: PreparedSteering
    on_mix_change: OnMixChange
    refill: bool | None = None


class Session:
    """One text being written under a mix that may move. Iterate over it for its steps; made by `Desk.session`.

    Attributes:
        prompted: the formula and the prompt that it is written by.
        params: its sampling parameters.
        penalties: the bias and the penalties of `params`; None where all of them are neutral.
        speculation: how tokens are guessed ahead; None where they are not.
        state: the text so far; its row group alone writes to it.
        on_mix_change: what becomes of keys and values when the mix moves; see `Desk.session`.
        seed: the seed in use, drawn if none was given.
        most_tokens: tokens that its longest row may come to hold.
    """

    def __init__(
        self,
        prompted: PromptedFormula,
        mix: Mix,
        params: SamplingParams,
        on_mix_change: OnMixChange,
        scheduler: Scheduler,
        steering: Steering = REST,
        speculation: Speculation | None = None,
    ) -> None:
        if on_mix_change not in get_args(OnMixChange):
            raise UnknownName("way to treat a mix change", str(on_mix_change), get_args(OnMixChange))
        self.prompted, self.params = prompted, params
        model = prompted.model
        self.penalties = penalties(params, prompted.prompt_ids, model.backend_tokenizer, model.vocab)
        self.on_mix_change: OnMixChange = on_mix_change
        self.speculation, self._scheduler = speculation, scheduler
        self.seed = secrets.randbits(31) if params.seed is None else params.seed
        self._mix = mix, tuple(branch_prompt.under(mix) for branch_prompt in prompted.branch_prompts)
        self.steering = steering
        room = prompted.context_room
        self.state = TextState(prompted.model, prompted.prompt_ids, params, room, prompted.bound.bans)
        self.most_tokens = prompted.longest_prompt + min(params.max_new_tokens, room)

    @property
    def rows_needed(self) -> int:
        """Rows of the batch that it takes."""
        return len(self.prompted.branch_prompts)

    @property
    def prompt(self) -> str:
        """The prompt as text; of a conversation, what the user said last."""
        return str(self.prompted.prompt)

    @property
    def prompt_ids(self) -> list[int]:
        """The prompt as the resident model reads it."""
        return list(self.prompted.prompt_ids)

    @property
    def text(self) -> str:
        """All text so far, without the prompt."""
        return self.state.text

    @property
    def token_ids(self) -> list[int]:
        """All tokens so far, without the prompt."""
        return list(self.state.token_ids)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the text ended; None while it goes on, `ban` where every way on leads to a banned word."""
        return self.state.finish_reason

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The text so far, divided where the mix or the steering of its tokens changes."""
        return self.state.segments

    @property
    def stats(self) -> Stats:
        """Figures so far."""
        guessed = self.speculation.guessed if self.speculation else 0
        return self.state.stats(self.speculation.accepted / guessed if self.speculation and guessed else None)

    @property
    def mix(self) -> Mix:
        """The sliders' mix for the next token; set it from any thread. Terms that follow the sliders follow it.

        Raises:
            UnknownName: it names an anchor that is not loaded; the stream goes on under the former mix.
            InvalidValue: with what the formula adds to it, a coefficient is out of range.
        """
        return self._mix[0]

    @mix.setter
    def mix(self, mix: Mix) -> None:
        former = self._mix[1]
        rows = tuple(
            branch_prompt.under(mix) if branch_prompt.branch.follows else row
            for branch_prompt, row in zip(self.prompted.branch_prompts, former, strict=True)
        )
        self._mix = mix, rows  # one reference, replaced whole, so that no thread sees half a change

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
        prompted = self.prompted
        prepared = prompted.controller.prepare(steering)
        if steering.heads and prompted.bound.reward_branch is None:
            hint = "Add a term of the base to the formula."
            raise InvalidValue("Reward heads read the resident base, and the formula has no term of it.", hint)
        if steering.whole and not any(one.branch == BASE for one in prompted.branch_prompts):
            hint = "Start the text with a steering that does."
            raise InvalidValue("The budget cannot count the whole from here on: the base's own row is missing.", hint)
        self._prepared = prepared

    @property
    def applied_steering(self) -> Steering:
        """The steering that the last token was drawn under; the one in force where there is no token yet."""
        under = self.state.drawn_under
        return under.steering if under else self.steering

    @property
    def wanted(self) -> Wanted:
        """What the next token is to be drawn under."""
        return Wanted(*self._mix, self._prepared, self.on_mix_change)

    def script(self, index: int, most: int) -> list[int]:
        """Tokens that must come after the first `index`, at most `most`; none, since tokens are drawn here."""
        return []

    def close(self) -> None:
        """End the stream; its rows are freed before the next step. Closing twice is fine."""
        self.state.close()
        self._scheduler.wake()

    def __iter__(self) -> Iterator[Step]:
        for (step,) in self._scheduler.run(self):
            if step is not None:
                yield step
