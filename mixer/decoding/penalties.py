"""Bias and penalties on the logits of one token: pure functions of one row's logits and of the tokens before it.

So rows stay independent, and every place under speculation sees exactly the tokens before it. Definitions: repetition
penalty, Keskar et al., CTRL, arXiv 1909.05858; presence and frequency penalty, OpenAI's API; DRY, p-e-w. Knows no
model, no rows and no sampling.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mixer.errors import InvalidValue
from mixer.kernels.repetition import match_ends
from mixer.values.sampling import SamplingParams

IdArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"

WINDOW = 2048  # last tokens of prompt and text that DRY looks through
MOST_DRY = 1e30  # most that DRY takes off a logit, so that the logit stays finite


@dataclass(frozen=True, eq=False)
class Penalties:
    """The bias and the penalties of one text; see `SamplingParams` for what each does. Call it for a token's logits.

    The repetition penalty comes first, on the logits as they are. All else is added.

    Attributes:
        prompt_ids: the prompt's tokens, as the resident model reads them.
        biases: token id -> what is added to its logit.
        breakers: what DRY does not go across.
    """

    params: SamplingParams
    prompt_ids: tuple[int, ...]
    biases: Mapping[int, float]
    breakers: Breakers

    def __call__(self, logits: Tensor, text_ids: Sequence[int]) -> Tensor:
        """The logits under bias and penalties, `(V,)`, in a new tensor.

        Args:
            logits: `(V,)`, not normalized.
            text_ids: the text's tokens so far, guesses included, without the prompt.
        """
        params, text = self.params, as_array(text_ids)
        changed = logits.clone()
        if params.repetition_penalty != 1:
            seen = _on(logits, np.concatenate((self._prompt, text)))
            changed.index_copy_(0, seen, repetition(logits.index_select(0, seen), params.repetition_penalty))
        # Each of these has every token once, so that the order of the sums is fixed on every device.
        if self.biases:
            _add(changed, *self._bias_arrays)
        if params.presence_penalty or params.frequency_penalty:
            _add(changed, *occurrence_offsets(text, params.presence_penalty, params.frequency_penalty))
        if params.dry_multiplier:
            ids = np.concatenate((self._prompt[-WINDOW:], text[-WINDOW:]))[-WINDOW:]
            lengths = dry_lengths(ids, params.dry_allowed_length, self.breakers)
            if lengths:
                options = params.dry_multiplier, params.dry_base, params.dry_allowed_length
                _add(changed, as_array(lengths), np.array([-dry_penalty(n, *options) for n in lengths.values()]))
        return changed

    @cached_property
    def _prompt(self) -> IdArray:
        return as_array(self.prompt_ids)

    @cached_property
    def _bias_arrays(self) -> tuple[IdArray, np.ndarray]:
        return as_array(self.biases), np.array([*self.biases.values()])


def penalties(params: SamplingParams, prompt_ids: Sequence[int], tokenizer: Tokenizer, vocab: int) -> Penalties | None:
    """The penalties of a text; None where every one of them is neutral.

    Args:
        vocab: the number of tokens that have logits, V.

    Raises:
        InvalidValue: see `token_biases`.
    """
    biases = token_biases(params.biases, tokenizer, vocab)
    counts = params.presence_penalty or params.frequency_penalty
    if not (biases or counts or params.dry_multiplier or params.repetition_penalty != 1):
        return None
    breakers = Breakers(tuple(params.dry_sequence_breakers), lambda token: _piece(tokenizer, token))
    return Penalties(params, tuple(prompt_ids), biases, breakers)


def repetition(logits: Tensor, penalty: float) -> Tensor:
    """Logits of tokens that occurred, `(n,)`: positive ones divided by the penalty, negative ones multiplied."""
    return torch.where(logits < 0, logits * penalty, logits / penalty)


def occurrence_offsets(text: IdArray, presence: float, frequency: float) -> tuple[IdArray, np.ndarray]:
    """The distinct tokens of a text, `(n,)`, and what presence and frequency penalty add to their logits, `(n,)`."""
    tokens, counts = np.unique(text, return_counts=True)
    return tokens, -(presence + frequency * counts)


def dry_penalty(length: int, multiplier: float, base: float, allowed_length: int) -> float:
    """What DRY takes off a token that would extend a repetition of so many tokens, at least `allowed_length`."""
    power = (length - allowed_length) * math.log(base)
    return min(MOST_DRY, multiplier * math.exp(min(power, math.log(MOST_DRY))))


def dry_lengths(ids: IdArray, allowed_length: int, breakers: Breakers) -> dict[int, int]:
    """Token id -> length of the longest repetition that it would extend; those of at least `allowed_length` tokens.

    A repetition of n tokens: the last n tokens of `ids` stand earlier in it too, perhaps overlapping, and the token
    comes after them there. The time is linear in the number of tokens.
    """
    found = np.empty_like(ids)
    match_ends(ids, found)
    places = np.flatnonzero(found[:-1] >= allowed_length)
    if not places.size:
        return {}
    longest: dict[int, int] = {}
    for token, length in zip(ids[places + 1].tolist(), found[places].tolist(), strict=True):
        longest[token] = max(length, longest.get(token, 0))
    unbroken = breakers.unbroken(ids.tolist(), max(longest.values()))
    if unbroken < allowed_length:
        return {}
    return {token: min(n, unbroken) for token, n in longest.items() if not breakers.breaks(token)}


def as_array(ids: Collection[int]) -> IdArray:
    """Token ids as an array, `(n,)`."""
    return np.frombuffer(array("q", ids), np.int64)  # several times as fast as np.array


def _on(logits: Tensor, ids: IdArray) -> Tensor:
    """Token ids as an index on the device of the logits."""
    return torch.from_numpy(ids).to(logits.device)


def _add(logits: Tensor, ids: IdArray, values: np.ndarray) -> None:
    """Add values, `(n,)`, to the logits of distinct tokens, `(n,)`."""
    logits.index_add_(0, _on(logits, ids), torch.from_numpy(values).to(logits.device, logits.dtype))


@dataclass(frozen=True, eq=False)
class Breakers:
    """Texts that no repetition goes across.

    Attributes:
        texts: the breakers.
        piece: token id -> its text.
    """

    texts: tuple[str, ...]
    piece: Callable[[int], str]
    _pieces: dict[int, str] = field(default_factory=dict)

    def breaks(self, token: int) -> bool:
        """Whether a breaker lies in this one token."""
        return any(text in self._text(token) for text in self.texts)

    def unbroken(self, ids: Sequence[int], most: int) -> int:
        """How many of the last tokens, at most `most`, come after the last breaker; a breaker may span tokens."""
        start = len(ids) - most
        before, reach = "", max(map(len, self.texts), default=1) - 1
        while start > 0 and len(before) < reach:
            start -= 1
            before = self._text(ids[start]) + before
        pieces = [self._text(token) for token in ids[len(ids) - most :]]
        text = before + "".join(pieces)
        last = max((at + len(one) for one in self.texts if (at := text.rfind(one)) >= 0), default=0)
        free, count = len(text) - last, 0  # characters after the last breaker
        for piece in reversed(pieces):
            free -= len(piece)
            if free < 0:
                break
            count += 1
        return count

    def _text(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.piece(token)
        return self._pieces[token]


def token_biases(biases: Sequence[tuple[str | int, float]], tokenizer: Tokenizer, vocab: int) -> dict[int, float]:
    """Token id -> bias of each token that words and token ids stand for; biases of the same token add up.

    Raises:
        InvalidValue: the model does not know a token id or a word, or a word is several tokens.
    """
    found: dict[int, float] = {}
    for key, bias in biases:
        for token in [_known(key, vocab)] if isinstance(key, int) else _word_tokens(key, tokenizer, vocab):
            found[token] = found.get(token, 0.0) + bias
    return {token: bias for token, bias in found.items() if bias}


def _known(token: int, vocab: int) -> int:
    if token >= vocab:
        hint = f"Give whole numbers below {vocab}."
        raise InvalidValue(f"logit_bias has the token {token}, which the model does not know.", hint)
    return token


def _word_tokens(word: str, tokenizer: Tokenizer, vocab: int) -> set[int]:
    """The tokens of a word as it stands, and after a space, where that is a single token."""
    forms = [word] if word[0].isspace() else [word, f" {word}"]
    codes = [tokenizer.encode(form, add_special_tokens=False) for form in forms]
    unknown = tokenizer.model.unk_token if hasattr(tokenizer.model, "unk_token") else None
    single = {code.ids[0] for code in codes if len(code.ids) == 1 and code.tokens[0] != unknown}
    single = {token for token in single if token < vocab}
    if single:
        return single
    shortest = min(codes, key=lambda code: len(code.ids))
    if len(shortest.ids) > 1 and unknown not in shortest.tokens:
        shown = " | ".join(_piece(tokenizer, token) for token in shortest.ids)
        hint = "Give their ids, or a word that is one token."
        raise InvalidValue(f"The word {word!r} of logit_bias is several tokens: {shown}.", hint)
    raise InvalidValue(f"The model does not know the word {word!r} of logit_bias.", "Give another word or a token id.")


def _piece(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token, special tokens included."""
    return tokenizer.decode([token], skip_special_tokens=False)
