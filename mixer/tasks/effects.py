"""What each slider had to do with each token of a text: by how much it made the very token that came more likely.

    effect of a on t = log p(t | as it was written) - log p(t | the same with a at rest)        in nats

Both go through the text as it stands. So the effects on the tokens of a passage add up to the effect on the passage;
those of several sliders need not add up to that of all, since each of them is taken away while the others stay.

Knows no pages; texts are computed by `Desk.replay`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mixer.decoding.lockstep import in_batches
from mixer.decoding.steps import Segment
from mixer.desk import BATCH_ROWS
from mixer.values.mix import Mix
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.decoding.session import Session
    from mixer.desk import Desk


@dataclass(frozen=True)
class Effects:
    """Signed effects on every token of a text, `(T,)` each, in nats; above 0 where it made the token more likely.

    `inf` where the token could not have come without.

    Attributes:
        texts: what each token adds to the text; empty while a character is incomplete, and for the end of the text.
        logprobs: of each token as it was written, at temperature 1.
        everything: of all that took the text away from the base model: sliders, rewards and formula.
        attributes: of each attribute whose slider was off rest and acts on the formula.
        rewards: of each reward that steered.
    """

    texts: tuple[str, ...]
    logprobs: tuple[float, ...]
    everything: tuple[float, ...]
    attributes: Mapping[str, tuple[float, ...]] = field(hash=False)
    rewards: Mapping[str, tuple[float, ...]] = field(hash=False)


def effects(
    desk: Desk,
    prompt: str,
    segments: Sequence[Segment],
    params: SamplingParams | None = None,
    formula: str | None = None,
) -> Effects:
    """What each slider had to do with each token of a text that stands already.

    Args:
        segments: the text, such as a session's `segments`, or `[Segment(output.token_ids, mix, steering)]`.
        params: that it was drawn with; a steering's budget counts at their temperature, and before `min_new_tokens`
            are there, steering leaves the end of the text out.
        formula: that it was written by; None for the sliders alone.

    In segments that are exact, an attribute or reward at rest has no effect. In one that is not, keys and values hold
    on to former mixes, and an attribute that came to rest may still have one. A ban weighs no token here.

    Raises:
        InvalidValue, UnknownName, FormulaError: as for `Desk.replay` and `Desk.session`.
    """
    study = EffectReplays(desk, prompt, segments, params, formula)
    for _ in study.run():
        pass
    return study.effects


class EffectReplays:
    """The replays that it takes to tell the effects, for those who want to watch or stop them; see `effects`."""

    def __init__(
        self,
        desk: Desk,
        prompt: str,
        segments: Sequence[Segment],
        params: SamplingParams | None = None,
        formula: str | None = None,
    ) -> None:
        self._desk = desk
        written = desk.replay(prompt, segments, params, formula)
        follows = written.prompted.follows
        attributes = {name: None for one in segments for name in map(_attribute, one.mix.weights) if follows}
        rewards = {name: None for one in segments for name in one.steering.heads}
        tokens = tuple(token for one in segments for token in one.token_ids)

        def without(attribute: str = "", reward: str = "") -> Session:
            rest = [replace(s, mix=_rest(s.mix, attribute), steering=s.steering.without(reward)) for s in segments]
            return desk.replay(prompt, rest, params, formula)

        self._written = written
        self._base = desk.replay(prompt, [Segment(tokens)], params)
        self._attributes = {name: without(attribute=name) for name in attributes}
        self._rewards = {name: without(reward=name) for name in rewards}
        self._texts: list[str] = []
        self._logprobs: dict[Session, list[float]] = {}

    def run(self) -> Generator[float, None, None]:
        """Go through all replays, some side by side; the share that is done, token by token."""
        sessions = [self._written, self._base, *self._attributes.values(), *self._rewards.values()]
        self._logprobs = {session: [] for session in sessions}
        whole, done = len(sessions) * self._written.params.max_new_tokens, 0
        for batch in in_batches(sessions, BATCH_ROWS):
            for steps in self._desk.lockstep(*batch):
                for session, step in zip(batch, steps, strict=True):
                    if step is not None:
                        self._logprobs[session].append(step.logprob)
                        if session is self._written:
                            self._texts.append(step.text)
                done += len(batch)
                yield done / whole

    @property
    def effects(self) -> Effects:
        """What was found; there when all has run."""
        return Effects(
            tuple(self._texts),
            tuple(self._logprobs[self._written]),
            self._of(self._base),
            {name: self._of(session) for name, session in self._attributes.items()},
            {name: self._of(session) for name, session in self._rewards.items()},
        )

    def _of(self, other: Session) -> tuple[float, ...]:
        pairs = zip(self._logprobs[self._written], self._logprobs[other], strict=True)
        return tuple(with_it - without if with_it != without else 0.0 for with_it, without in pairs)  # both may be -inf


def _attribute(anchor: str) -> str:
    return anchor.rpartition(".")[0]


def _rest(mix: Mix, attribute: str) -> Mix:
    """A mix with one attribute at rest, however it came in; the very same where it is already."""
    rest = {anchor: weight for anchor, weight in mix.weights.items() if _attribute(anchor) != attribute}
    return mix if len(rest) == len(mix.weights) else Mix(raw=rest)
