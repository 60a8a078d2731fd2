"""Sampling parameters: the numbers and texts that a person chooses, checked when they are made.

Standard library only. `mixer.decoding.sampler` draws the tokens, `mixer.decoding.penalties` applies bias and penalties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from mixer.errors import InvalidValue
from mixer.values.bounds import bounded, texts

BOUNDS: Mapping[str, tuple[float, float]] = {
    "max_new_tokens": (1, 100_000),
    "min_new_tokens": (0, 100_000),
    "temperature": (0, 10),
    "top_k": (0, 10_000_000),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "seed": (-1, 2**63 - 1),
    "repetition_penalty": (0.1, 10),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "dry_multiplier": (0, 100),
    "dry_base": (1, 10),
    "dry_allowed_length": (1, 1000),
}
WHOLE = ("max_new_tokens", "min_new_tokens", "top_k", "seed", "dry_allowed_length")
MOST_BIAS = 100.0  # added to a logit; -100 forbids a token, 100 forces it
MOST_BIASED, MOST_LETTERS = 1000, 100  # entries of `logit_bias`, and characters of a word in it
BREAKERS = ("\n", ":", '"', "*")

Biases: TypeAlias = "Mapping[str | int, float] | Sequence[tuple[str | int, float]]"


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
        seed: equal seeds give equal texts; None and -1 draw a new seed. It is None where -1 was given.
        logit_bias: word or token id -> number from -100 to 100 that is added to the logit. A word of digits alone is a
            token id. A word stands for the tokens `word` and ` word`, and one of the two must be a single token; the
            session checks that. It is given as a mapping or as pairs, and kept as sorted pairs.
        repetition_penalty: logits of tokens that are in the prompt or in the text are divided by it where they are
            positive, and multiplied by it where they are negative (CTRL, arXiv 1909.05858); 1 does nothing.
        presence_penalty: taken off the logit of every token that is in the text.
        frequency_penalty: taken off the logit of a token once for each time that it is in the text.
        dry_multiplier: strength of DRY ("don't repeat yourself", by p-e-w); 0 does nothing. Where a token would extend
            a repetition of n tokens, n >= dry_allowed_length, `dry_multiplier * dry_base ** (n - dry_allowed_length)`
            is taken off its logit. The n tokens are the last ones of prompt and text, and stand somewhere before too.
        dry_base: see `dry_multiplier`.
        dry_allowed_length: see `dry_multiplier`.
        dry_sequence_breakers: texts that no repetition goes across.

    Raises:
        InvalidValue: an option is not of its type, not finite or out of range.
    """

    max_new_tokens: int = 120
    min_new_tokens: int = 0
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    stop: Sequence[str] = ()
    seed: int | None = None
    logit_bias: Biases = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_sequence_breakers: Sequence[str] = BREAKERS

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if value is None and name == "seed":
                continue
            bounded(name, value, low, min(high, self.max_new_tokens) if name == "min_new_tokens" else high)
            if name in WHOLE and not isinstance(value, int):
                raise InvalidValue(f"{name} must be a whole number, not {value!r}.", f"Give one from {low} to {high}.")
        kept = {name: texts(name, getattr(self, name)) for name in ("stop", "dry_sequence_breakers")}
        seed = None if self.seed == -1 else self.seed
        for name, value in {**kept, "seed": seed, "logit_bias": _sorted_biases(self.logit_bias)}.items():
            object.__setattr__(self, name, value)

    def record(self) -> dict[str, Any]:
        """The options that differ from their defaults, as JSON and YAML have them: `SamplingParams(**record)`."""
        changed = {one.name: getattr(self, one.name) for one in fields(self)}
        changed = {name: value for name, value in changed.items() if value != getattr(SamplingParams, name)}
        shown = {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}
        return shown | ({"logit_bias": {str(key): bias for key, bias in self.biases}} if self.biases else {})

    @property
    def biases(self) -> tuple[tuple[str | int, float], ...]:
        """`logit_bias` as sorted pairs."""
        return tuple(self.logit_bias)  # type: ignore[arg-type]  # `__post_init__` has made pairs of it


def _sorted_biases(biases: object) -> tuple[tuple[str | int, float], ...]:
    """Pairs of (token id or word, bias), token ids first.

    Raises:
        InvalidValue: a key is no word and no token id, or is there twice; a bias is out of range; there are too many.
    """
    hint = "Give words or token ids with numbers, such as {'colour': 5, '262': -100}."
    pairs = list(biases.items()) if isinstance(biases, Mapping) else biases
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        raise InvalidValue(f"logit_bias must be words with numbers, not {str(biases)[:40]!r}.", hint)
    if len(pairs) > MOST_BIASED:
        raise InvalidValue(f"logit_bias has {len(pairs):,} entries.", f"Give at most {MOST_BIASED:,}.")
    found: dict[str | int, float] = {}
    for pair in pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise InvalidValue(f"logit_bias has the entry {str(pair)[:40]!r}.", hint)
        key = _bias_key(pair[0], hint)
        if key in found:
            raise InvalidValue(f"logit_bias has {key!r} twice.", "Leave one of them out.")
        found[key] = bounded(f"The bias of {key!r}", pair[1], -MOST_BIAS, MOST_BIAS)
    return tuple(sorted(found.items(), key=lambda one: (isinstance(one[0], str), one[0])))


def _bias_key(key: object, hint: str) -> str | int:
    """A token id, or a word; digits alone are a token id."""
    if isinstance(key, str) and 0 < len(key) <= MOST_LETTERS:
        return int(key) if key.isascii() and key.isdigit() else key
    if isinstance(key, int) and not isinstance(key, bool) and key >= 0:
        return key
    raise InvalidValue(f"logit_bias has {str(key)[:40]!r}, which is no word and no token id.", hint)
