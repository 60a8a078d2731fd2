"""What judges and rewards make of a text that is being written, for formulas that ask them. Knows no formulas."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mixer.judges.linear import Judges
from mixer.rewards.controller import RewardController

TAIL = 16  # tokens that are decoded anew with each candidate; characters never reach further back
LEAST = 1e-6  # no judge is so sure of itself that the logarithm may say minus infinity
BROKEN = "\ufffd"  # stands for a character of which bytes are missing


class TextOpinions:
    """Asks about one text and its possible next tokens; see `mixer.decoding.evaluate.OpinionReader`.

    Args:
        prompt, prompt_ids: what comes before the text, and is read with it.
        token_ids: the text's.
        controller: reward heads.
        state: the model's at the text's end, `(D,)`.
    """

    def __init__(
        self,
        judges: Judges,
        tokenizer: Tokenizer,
        prompt: str,
        prompt_ids: Sequence[int],
        token_ids: Sequence[int],
        controller: RewardController,
        state: Tensor,
    ) -> None:
        self._judges, self._tokenizer = judges, tokenizer
        self._controller, self._state = controller, state
        self._prompt, self._prompt_ids, self._token_ids = prompt, prompt_ids, token_ids
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
        """For judges alone: reward heads need no text."""
        return self._prompt + self._tokenizer.decode(list(self._token_ids), skip_special_tokens=True)

    def _log(self, judge: str, goal: float, endings: Sequence[str]) -> np.ndarray:
        scores = np.asarray(self._judges.scores_after(judge, self._text.rstrip(BROKEN), endings))
        return np.log(np.maximum(goal * scores + (1 - goal) * (1 - scores), LEAST))
