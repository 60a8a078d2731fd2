"""A request for a text: as a value, and as one table of its fields.

Python, the command line, mix files, links, CSV files, the API and the page all take names, defaults, bounds and
descriptions from this table. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mixer.errors import InvalidValue
from mixer.values.bounds import bounded
from mixer.values.chat import Prompt
from mixer.values.mix import POSITION_LIMIT, Mix
from mixer.values.sampling import BOUNDS, SamplingParams
from mixer.values.steering import BUDGET, MOST_NATS, REST, Steering


@dataclass(frozen=True)
class Request:
    """One text to write in a batch."""

    prompt: Prompt
    mix: Mix = field(default_factory=Mix)
    params: SamplingParams = field(default_factory=SamplingParams)
    formula: str | None = None
    steering: Steering = REST


@dataclass(frozen=True)
class Field:
    """One field of a request. Python, the command line, links and so on are called doors here.

    If `flag`, `link` or `column` is empty, that door does not have the field.

    Attributes:
        name: its key in the page's state.
        kind: the type of its value. `dict` means one number for each attribute or reward head.
        noun: what it is called at the beginning of a sentence.
        about: what it means. `describe` replaces `{low}` and `{high}` by the bounds.
        default: its value if a request does not give it.
        low, high: bounds of a number. If `low` is below 0, the lower bound is the negative of the upper bound.
        served: the upper bound for what anybody can send to a server (the page, its links, its CSV files, the API);
            None for `high`.
        opening: its value in a new page; None for `default`.
        argument: its name in Python, in the API and in mix files; empty for `name`.
        flag: its option on the command line.
        link: its key in a link. A key that ends with a dot is a prefix of the name of an attribute or a reward head.
        column: its column in a CSV file. A dot at the end means the same.
        choices: the allowed texts; empty for any text.
    """

    name: str
    kind: type
    noun: str
    about: str = ""
    default: Any = None
    low: float = 0.0
    high: float = 0.0
    served: float | None = None
    opening: Any = None
    argument: str = ""
    flag: str = ""
    link: str = ""
    column: str = ""
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.opening is None:
            object.__setattr__(self, "opening", self.default)
        object.__setattr__(self, "argument", self.argument or self.name)

    def bounds(self, served: bool = False) -> tuple[float, float]:
        """The lowest and the highest number. With `served`, those for a server."""
        high = self.served if served and self.served is not None else self.high
        return (-high if self.low < 0 else self.low), high

    def describe(self, served: bool = False) -> str:
        """What the field means, with its bounds."""
        low, high = self.bounds(served)
        return self.about.format(low=f"{low:g}", high=f"{high:.15g}")

    def check(self, value: object, served: bool = False, noun: str = "") -> Any:
        """`value`, if the field allows it. For a field of kind `dict`, `value` is one of its numbers.

        Raises:
            InvalidValue: `value` has another type, is out of bounds or is none of the choices.
        """
        noun = noun or self.noun
        if self.choices and value not in self.choices:
            raise InvalidValue(f"There is no such {self.name}.", f"Choose one of {', '.join(self.choices)}.")
        if self.kind is bool and not isinstance(value, bool):
            raise InvalidValue(f"{noun} is not true or false.", "Leave it out.")
        if self.kind in (bool, str):
            return value
        number: Any = bounded(noun, value, *self.bounds(served))
        if self.kind is not int:
            return number
        if number != int(number):
            raise InvalidValue(f"{noun} is not a whole number.", "Leave the fraction away.")
        return int(value)  # type: ignore[call-overload]  # `bounded` has seen that it is a number


_TABLE = (
    Field(
        "prompt",
        str,
        "The prompt",
        "How the text begins.",
        opening="The last train of the evening was",
        link="p",
        column="prompt",
    ),
    Field(
        "positions",
        dict,
        "The position",
        "Attribute -> position from {low} to {high}: -1 and 1 are the poles, beyond is extrapolation; 0, and what "
        "is left out, is the base model.",
        low=-POSITION_LIMIT,
        high=POSITION_LIMIT,
        served=1.5,
        argument="settings",
        flag="--set",
        link="s.",
    ),
    Field(
        "rewards",
        dict,
        "The reward",
        "Reward head -> position from {low} to {high}: 0 is at rest, 1 pushes every token toward the attribute, "
        "-1 away from it.",
        low=-POSITION_LIMIT,
        high=POSITION_LIMIT,
        flag="--reward",
        link="r.",
        column="reward.",
    ),
    Field(
        "levels",
        dict,
        "The level",
        "Reward head -> level from {low} to {high} to aim for, by the head's own reading of the text; a head with "
        "a position cannot have a level too.",
        high=1.0,
        flag="--aim",
        link="aim.",
        column="aim.",
    ),
    Field(
        "budget",
        float,
        "The budget",
        "Most nats of divergence at every token, {low} to {high}, that rewards, and judges and rewards of the "
        f"formula, spend together. Left out, {BUDGET:g} where anything steers, and no limit where nothing does.",
        default=BUDGET,
        high=MOST_NATS,
        flag="--budget",
        link="budget",
    ),
    Field(
        "whole",
        bool,
        "Whether the budget counts the sliders",
        "Whether the budget counts the settings and the formula too.",
        default=False,
        flag="--whole",
        link="whole",
    ),
    Field(
        "decouple",
        bool,
        "Whether the sliders are decoupled",
        "Whether the settings are levels of the measured scores instead, where -1 and 1 are what a pole alone "
        "reaches: positions are then found that move these scores and hold the others where the base model has "
        "them.",
        default=False,
        link="decouple",
    ),
    Field(
        "formula",
        str,
        "The formula",
        "What to write by, such as `base - 0.96*union(base, [rude])`, where `sliders` is the model that the "
        "settings make. Left out, that model itself writes.",
        opening="sliders",
        flag="--formula",
        link="f",
        column="formula",
    ),
    Field(
        "mode",
        str,
        "The mode",
        "What a slider does to a running text.",
        default="keep",
        argument="on_mix_change",
        link="mode",
        choices=("keep", "refill", "restart"),
    ),
    Field(
        "temperature",
        float,
        "The temperature",
        "{low} (always the likeliest token) to {high}.",
        SamplingParams.temperature,
        *BOUNDS["temperature"],
        served=2.0,
        flag="--temperature",
        link="t",
        column="temperature",
    ),
    Field(
        "tokens",
        int,
        "The number of tokens",
        "Most tokens of the text, {low} to {high}.",
        SamplingParams.max_new_tokens,
        *BOUNDS["max_new_tokens"],
        served=1000,
        opening=160,
        argument="max_new_tokens",
        flag="--max-new-tokens",
        link="n",
        column="tokens",
    ),
    Field(
        "fewest_tokens",
        int,
        "min_new_tokens",
        "The text does not end before so many tokens, {low} to max_new_tokens.",
        SamplingParams.min_new_tokens,
        *BOUNDS["min_new_tokens"],
        served=1000,
        argument="min_new_tokens",
        flag="--min-new-tokens",
    ),
    Field(
        "top_p",
        float,
        "top_p",
        "Draw from the smallest set of tokens with at least this probability, {low} to {high}.",
        SamplingParams.top_p,
        *BOUNDS["top_p"],
        flag="--top-p",
    ),
    Field(
        "seed",
        int,
        "The seed",
        "Whole number from {low}; equal seeds give equal texts. Left out, a fresh one is drawn.",
        SamplingParams.seed,
        *BOUNDS["seed"],
        served=2**53,  # browsers and spreadsheets round larger numbers
        opening=7,
        flag="--seed",
        link="seed",
        column="seed",
    ),
    Field(
        "rate",
        float,
        "The speed",
        "Most tokens a second, {low} to {high}; 0 for all that the machine can.",
        default=0.0,
        high=1000.0,
        opening=30,  # faster than reading, slow enough to steer by hand
        link="rate",
    ),
    Field(
        "fresh",
        bool,
        "Whether to draw a new seed",
        "Draw a new seed for every text.",
        default=False,
        link="fresh",
    ),
)
FIELDS: Mapping[str, Field] = MappingProxyType({one.name: one for one in _TABLE})
