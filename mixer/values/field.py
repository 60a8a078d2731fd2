"""One field of a request: its names, default, bounds and description. `mixer.values.request` has the table of all.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mixer.errors import InvalidValue
from mixer.values.bounds import bounded, texts
from mixer.values.chat import HINT, Conversation


@dataclass(frozen=True)
class Field:
    """One field of a request. Python, the command line, links and so on are called doors here.

    If `flag`, `link` or `column` is empty, that door does not have the field.

    Attributes:
        name: its key in the page's state.
        kind: the type of its value. `dict` means one number for each attribute, reward head or word; `tuple` means
            several texts; `Conversation` means a list of messages.
        noun: what it is called at the beginning of a sentence.
        about: what it means. `describe` replaces `{low}` and `{high}` by the bounds.
        default: its value if a request does not give it.
        low, high: bounds of a number, or of how many messages there are.
        served: the upper bound for what anybody can send to a server (the page, its links, its CSV files, the API);
            None for `high`. The lower bound is never farther from 0 than the upper one.
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
        return max(self.low, -high), high

    def describe(self, served: bool = False) -> str:
        """What the field means, with its bounds."""
        low, high = self.bounds(served)
        return self.about.format(low=f"{low:g}", high=f"{high:.15g}")

    def check(self, value: object, served: bool = False, noun: str = "") -> Any:
        """`value`, if the field allows it. For a field of kind `dict`, `value` is one of its numbers.

        Raises:
            InvalidValue: `value` has another type, is out of bounds or is none of the choices; or a text is empty.
                Messages are no list, or no conversation.
        """
        noun = noun or self.noun
        if self.choices and value not in self.choices:
            raise InvalidValue(f"There is no such {self.name}.", f"Choose one of {', '.join(self.choices)}.")
        if self.kind is bool and not isinstance(value, bool):
            raise InvalidValue(f"{noun} is not true or false.", "Leave it out.")
        if self.kind in (bool, str):
            return value
        if self.kind is tuple:
            return texts(noun, value)
        if self.kind is Conversation:
            if not isinstance(value, list):
                raise InvalidValue(f"{noun} are not a list.", HINT)
            return Conversation.of(value)
        number: Any = bounded(noun, value, *self.bounds(served))
        if self.kind is not int:
            return number
        if number != int(number):
            raise InvalidValue(f"{noun} is not a whole number.", "Leave the fraction away.")
        return int(value)  # type: ignore[call-overload]  # `bounded` has seen that it is a number
