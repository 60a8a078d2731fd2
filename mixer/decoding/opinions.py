"""Opinions of judges and reward heads on a text in progress, for formulas that ask for them. Knows no formulas."""

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

TAIL = 16  # tokens that are decoded again with each candidate; no character spans more
LEAST = 1e-6  # the least score that counts: the logarithm of 0 would forbid a token for good
BROKEN = "\ufffd"  # stands for a character of which bytes are missing


@dataclass(frozen=True, eq=False)
class OpinionSource:
    """Judges and reward heads, and the prompt that they read before a text.

    Attributes:
        prompt: as text, and prompt_ids: as the resident model reads it.
    """

    judges: Judges
    controller: RewardController
    tokenizer: Tokenizer
    prompt: str
    prompt_ids: Sequence[int]

    def after(self, token_ids: Sequence[int], state: Tensor) -> TextOpinions:
        """Opinions on the text that has these tokens.

        Args:
            state: the model's hidden state after the last of them, `(D,)`.
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
        """log C of the text with each token after it, `(k,)` float32, and log C of the text as it is."""
        stem = self._tokenizer.decode(self._tail, skip_special_tokens=True).rstrip(BROKEN)
        longer = self._tokenizer.decode_batch([[*self._tail, token] for token in tokens], skip_special_tokens=True)
        endings = [text.removeprefix(stem).rstrip(BROKEN) for text in longer]
        logs = self._log(judge, goal, ["", *endings])
        return torch.from_numpy(logs[1:].astype(np.float32)), float(logs[0])

    def strength(self, judge: str, goal: float) -> float:
        """C of the text as it is."""
        return float(np.exp(self._log(judge, goal, [""])[0]))

    def advantages(self, head: str, goal: float, tokens: Tensor, logprobs: Tensor) -> Tensor:
        """What a reward makes of these next tokens, `(k,)`: see `RewardController.advantages`."""
        ids = [*self._prompt_ids, *self._token_ids]
        return (2 * goal - 1) * self._controller.advantages(head, self._state, ids, tokens, logprobs)

    @cached_property
    def _text(self) -> str:
        """Prompt and text as characters. Reward heads do not need them, so they are decoded on demand."""
        return self._prompt + self._tokenizer.decode(list(self._token_ids), skip_special_tokens=True)

    def _log(self, judge: str, goal: float, endings: Sequence[str]) -> np.ndarray:
        scores = np.asarray(self._judges.scores_after(judge, self._text.rstrip(BROKEN), endings))
        return np.log(np.maximum(goal * scores + (1 - goal) * (1 - scores), LEAST))
