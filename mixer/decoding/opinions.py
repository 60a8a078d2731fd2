"""Opinions: what judges and reward heads say of a text in progress, when a formula asks them. Knows no formulas.

An opinion comes from one text and one position. The next token gets opinions of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mixer.judges.linear import Judges
from mixer.rewards.controller import RewardController

TAIL = 16  # last tokens that are decoded again with each candidate; no character has more tokens
LEAST = 1e-6  # smaller scores count as this one: the logarithm of 0 would forbid a token entirely
BROKEN = "\ufffd"  # what a tokenizer writes for a character with missing bytes


@dataclass(frozen=True, eq=False)
class OpinionSource:
    """Judges and reward heads, and the prompt that they read before a text.

    Attributes:
        judges, controller: the judges; what knows the reward heads.
        tokenizer: the resident model's.
        prompt, prompt_ids: the prompt as text, and as the resident model reads it.
    """

    judges: Judges
    controller: RewardController
    tokenizer: Tokenizer
    prompt: str
    prompt_ids: Sequence[int]

    def after(self, token_ids: Sequence[int], state: Tensor) -> TextOpinions:
        """Opinions on the text that has these tokens, the prompt not included.

        Args:
            state: the hidden state after the last token, `(D,)`, of the branch that reward heads read.
        """
        return TextOpinions(self, token_ids, state)


class TextOpinions:
    """Opinions on one text and its possible next tokens; see `mixer.decoding.evaluate.OpinionReader`."""

    def __init__(self, source: OpinionSource, token_ids: Sequence[int], state: Tensor) -> None:
        self._judges, self._tokenizer, self._controller = source.judges, source.tokenizer, source.controller
        self._prompt, self._prompt_ids = source.prompt, source.prompt_ids
        self._token_ids, self._state = token_ids, state
        self._tail = list(token_ids[-TAIL:])

    def candidates(self, judge: str, goal: float, tokens: list[int]) -> tuple[Tensor, float]:
        """log C of the text with each of k tokens appended, `(k,)` float32; and log C of the text itself."""
        stem = self._tokenizer.decode(self._tail, skip_special_tokens=True).rstrip(BROKEN)
        longer = self._tokenizer.decode_batch([[*self._tail, token] for token in tokens], skip_special_tokens=True)
        endings = [text.removeprefix(stem).rstrip(BROKEN) for text in longer]
        logs = self._log(judge, goal, ["", *endings])
        return torch.from_numpy(logs[1:].astype(np.float32)), float(logs[0])

    def strength(self, judge: str, goal: float) -> float:
        """C of the text itself."""
        return float(np.exp(self._log(judge, goal, [""])[0]))

    def advantages(self, head: str, goal: float, tokens: Tensor, logprobs: Tensor) -> Tensor:
        """A reward's advantages for k next tokens, in nats, `(k,)`; see `RewardController.advantages`.

        With goal 1 the positive pole is rewarded, with goal 0 the negative one.
        """
        ids = [*self._prompt_ids, *self._token_ids]
        return (2 * goal - 1) * self._controller.advantages(head, self._state, ids, tokens, logprobs)

    @cached_property
    def _text(self) -> str:
        """Prompt and text as characters. They are decoded on demand, since reward heads do not need them."""
        return self._prompt + self._tokenizer.decode(list(self._token_ids), skip_special_tokens=True)

    def _log(self, judge: str, goal: float, endings: Sequence[str]) -> np.ndarray:
        """log C of the text with each ending, `(n,)`."""
        scores = np.asarray(self._judges.scores_after(judge, self._text.rstrip(BROKEN), endings))
        return np.log(np.maximum(goal * scores + (1 - goal) * (1 - scores), LEAST))
