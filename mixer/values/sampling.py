"""Sampling parameters: the numbers that a person chooses, checked when they are made.

Standard library only. `mixer.decoding.sampler` draws the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mixer.errors import InvalidValue
from mixer.values.bounds import bounded

BOUNDS: Mapping[str, tuple[int, int]] = {
    "max_new_tokens": (1, 100_000),
    "min_new_tokens": (0, 100_000),
    "temperature": (0, 10),
    "top_k": (0, 10_000_000),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "seed": (0, 2**63 - 1),
}
WHOLE = ("max_new_tokens", "min_new_tokens", "top_k", "seed")


@dataclass(frozen=True)
class SamplingParams:
    """Sampling options.

    Attributes:
        max_new_tokens: the most tokens to write.
        min_new_tokens: the model cannot end the text before so many tokens, unless no other token is left. A stop text
            still ends it.
        temperature: 0 takes the likeliest token every time.
        top_k: keep this many of the likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with at least this probability.
        min_p: keep tokens at least this fraction as likely as the likeliest.
        stop: texts that end the writing. They are not part of the result.
        seed: equal seeds give equal texts; None draws a new seed.

    Raises:
        InvalidValue: an option is no number, not finite or out of range.
    """

    max_new_tokens: int = 120
    min_new_tokens: int = 0
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    stop: Sequence[str] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if value is None and name == "seed":
                continue
            bounded(name, value, low, min(high, self.max_new_tokens) if name == "min_new_tokens" else high)
            if name in WHOLE and not isinstance(value, int):
                raise InvalidValue(f"{name} must be a whole number, not {value!r}.", f"Give one from {low} to {high}.")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise InvalidValue("A stop text is empty or no text.", "Give texts of at least one character.")
        object.__setattr__(self, "stop", stop)
