"""Records of a text in progress: its steps, its segments, its figures. Values alone; nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mixer.values.mix import Mix
from mixer.values.steering import REST, Steering

OnMixChange = Literal["keep", "refill", "restart"]
FinishReason = Literal["stop", "length", "context", "closed", "ban"]


@dataclass(frozen=True)
class Step:
    """One token of a stream, or tokens that a ban took back.

    Attributes:
        text: what this step adds to the text; empty while a character or a possible stop text is incomplete.
        logprob: log-probability of the token in the distribution after the formula, bias, penalties and rewards, at
            temperature 1 and before truncation. A replay with the same parameters gives it again.
        mix_key: key of the mix that the token was drawn under.
        exact: whether every key and value that it saw was computed under that mix.
        index: number of tokens before it; 0 again after a restart.
        rewind: characters to take off the text's end, because a banned word begins there.
        dropped: tokens taken back for that, this step's own included, so that `index` are left; 0 where it stays.
        guessed: whether speculation had guessed the token.
        nats: how far rewards took the token's distribution, `KL(p' || p)` at the sampling temperature, and what else
            the steering's budget counts.
        levels: each steering reward's reading of the text before the token, 0 to 1 as far as it was trained well.
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
    """A sampled token that the text has not taken yet; for the attributes see `Step`."""

    token: int
    logprob: float
    guessed: bool = False
    nats: float = 0.0
    levels: Mapping[str, float] = field(default_factory=dict)


class DrawnUnder(NamedTuple):
    """The conditions under which a token was drawn; see `Segment`."""

    mix: Mix
    steering: Steering
    exact: bool


@dataclass(frozen=True)
class Segment:
    """Tokens of a text that were drawn one after another under the same mix and steering.

    Attributes:
        exact: whether the keys and values of everything before them were computed under that mix too; see `Step`.
    """

    token_ids: tuple[int, ...]
    mix: Mix = field(default_factory=Mix)
    steering: Steering = REST
    exact: bool = True


@dataclass(frozen=True)
class Stats:
    """Figures of one session.

    Attributes:
        first_token_ms: milliseconds from the session's making to its first token.
        tokens_per_second: speed after the first token.
        tokens: length of the text.
        apply_us: microseconds that the last slider move took to reach the gate.
        exact: whether all steps were exact; see `Step`.
        acceptance: share of guessed tokens that were accepted; None where none was guessed.
        nats, most_nats: mean and maximum of the steps' nats.
    """

    first_token_ms: float | None
    tokens_per_second: float | None
    tokens: int
    apply_us: float | None
    exact: bool
    acceptance: float | None = None
    nats: float = 0.0
    most_nats: float = 0.0
