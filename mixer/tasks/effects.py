"""Effects: how each slider changed the log-probability of each token of a text.

    effect of a on t = log p(t | as it was written) - log p(t | the same with a at rest)        in nats

Both log-probabilities come from replays of the same text. So the effects on the tokens of a passage add up to the
effect on the passage. The effects of several sliders need not add up to the effect of all: each replay sets one slider
to rest and leaves the others.

Replays are computed by `Desk.replay`. This module knows no pages.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mixer.decoding.lockstep import in_batches
from mixer.decoding.steps import Segment
from mixer.desk import BATCH_ROWS
from mixer.values.chat import Prompt
from mixer.values.mix import Mix
from mixer.values.sampling import SamplingParams

if TYPE_CHECKING:
    from mixer.decoding.session import Session
    from mixer.desk import Desk


@dataclass(frozen=True)
class Effects:
    """Effects on every token of a text, `(T,)` each, in nats.

    An effect above 0 made the token more likely. It is `inf` if the token was impossible without the slider.

    Attributes:
        texts: the characters that each token adds to the text; empty while a character is incomplete, and for the end
            of the text.
        logprobs: of each token as it was written, at temperature 1.
        everything: the effect of sliders, rewards and formula together, against the base model.
        attributes: by attribute, for those whose slider was off rest and acts on the formula.
        rewards: by name, for those that steered.
    """

    texts: tuple[str, ...]
    logprobs: tuple[float, ...]
    everything: tuple[float, ...]
    attributes: Mapping[str, tuple[float, ...]] = field(hash=False)
    rewards: Mapping[str, tuple[float, ...]] = field(hash=False)


def effects(
    desk: Desk,
    prompt: Prompt,
    segments: Sequence[Segment],
    params: SamplingParams | None = None,
    formula: str | None = None,
) -> Effects:
    """Compute how each slider changed the log-probability of each token of a finished text.

    In an exact segment, an attribute or reward at rest has no effect. In other segments, keys and values are stale, so
    an attribute at rest may have an effect through a former mix. Bans have no effect here.

    Args:
        segments: the text, such as a session's `segments`, or `[Segment(output.token_ids, mix, steering)]`.
        params: the sampling parameters of the text. A steering's budget counts at their temperature. Before
            `min_new_tokens` tokens, steering excludes the end of the text.
        formula: the formula of the text; None for the sliders alone.

    Raises:
        InvalidValue, UnknownName, FormulaError: as for `Desk.replay` and `Desk.session`.
    """
    replays = EffectReplays(desk, prompt, segments, params, formula)
    for _ in replays.run():
        pass
    return replays.effects


class EffectReplays:
    """The replays behind `effects`, for callers that show progress or stop early. Arguments as for `effects`."""

    def __init__(
        self,
        desk: Desk,
        prompt: Prompt,
        segments: Sequence[Segment],
        params: SamplingParams | None = None,
        formula: str | None = None,
    ) -> None:
        self._desk = desk
        written = desk.replay(prompt, segments, params, formula)
        follows = written.prompted.follows
        # Dictionaries as ordered sets.
        attributes = {name: None for segment in segments for name in map(_attribute, segment.mix.weights) if follows}
        rewards = {name: None for segment in segments for name in segment.steering.heads}
        tokens = tuple(token for segment in segments for token in segment.token_ids)

        def without(attribute: str = "", reward: str = "") -> Session:
            """A replay with one attribute or reward at rest."""
            changed = [
                replace(s, mix=_without_attribute(s.mix, attribute), steering=s.steering.without(reward))
                for s in segments
            ]
            return desk.replay(prompt, changed, params, formula)

        self._written = written
        self._base = desk.replay(prompt, [Segment(tokens)], params)
        self._attributes = {name: without(attribute=name) for name in attributes}
        self._rewards = {name: without(reward=name) for name in rewards}
        self._texts: list[str] = []
        self._logprobs: dict[Session, list[float]] = {}

    def run(self) -> Generator[float, None, None]:
        """Run all replays, as many in lockstep as fit into `BATCH_ROWS` rows.

        Yields:
            after every step, the share of all tokens that is done, 0 to 1.
        """
        sessions = [self._written, self._base, *self._attributes.values(), *self._rewards.values()]
        self._logprobs = {session: [] for session in sessions}
        total, done = len(sessions) * self._written.params.max_new_tokens, 0
        for batch in in_batches(sessions, BATCH_ROWS):
            for steps in self._desk.lockstep(*batch):
                for session, step in zip(batch, steps, strict=True):
                    if step is not None:
                        self._logprobs[session].append(step.logprob)
                        if session is self._written:
                            self._texts.append(step.text)
                done += len(batch)
                yield done / total

    @property
    def effects(self) -> Effects:
        """The effects; call it after `run` has finished."""
        return Effects(
            tuple(self._texts),
            tuple(self._logprobs[self._written]),
            self._differences(self._base),
            {name: self._differences(session) for name, session in self._attributes.items()},
            {name: self._differences(session) for name, session in self._rewards.items()},
        )

    def _differences(self, other: Session) -> tuple[float, ...]:
        """Log-probabilities of the text as it was written less those of another replay; 0 if both are -inf."""
        pairs = zip(self._logprobs[self._written], self._logprobs[other], strict=True)
        return tuple(written - without if written != without else 0.0 for written, without in pairs)


def _attribute(anchor: str) -> str:
    return anchor.rpartition(".")[0]


def _without_attribute(mix: Mix, attribute: str) -> Mix:
    """A mix with both anchors of an attribute at 0. If they are at 0 already, the same mix comes back."""
    others = {anchor: weight for anchor, weight in mix.weights.items() if _attribute(anchor) != attribute}
    return mix if len(others) == len(mix.weights) else Mix(raw=others)
