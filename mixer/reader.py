"""What judges and reward heads make of a text that is being written, for formulas that ask them. Knows no formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mixer.judges import Judges
from mixer.rewards import Reward, advantage

TAIL = 16  # tokens that are decoded anew with each candidate; characters never reach further back
BUDGET = 0.5  # nats of divergence that a reward with the factor 1 spends on average
LEAST = 1e-6  # no judge is so sure of itself that the logarithm may say minus infinity
BROKEN = "\ufffd"  # stands for a character of which bytes are missing


class TextReader:
    """Asks about one text and its possible next tokens; see `mixer.formula.evaluate.Reader`.

    Args:
        prompt: what comes before the text, and is read with it.
        token_ids: the text's.
        heads: reward heads by name.
        embedding: the model's output embedding, `(V, D)`.
        state: what it is multiplied with at the text's end, `(D,)`.
    """

    def __init__(
        self,
        judges: Judges,
        tokenizer: Tokenizer,
        prompt: str,
        token_ids: Sequence[int],
        heads: Mapping[str, Reward],
        embedding: Tensor,
        state: Tensor,
    ) -> None:
        self._judges, self._tokenizer = judges, tokenizer
        self._heads, self._embedding, self._state = heads, embedding, state
        self._prompt, self._token_ids = prompt, token_ids
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

    def advantages(self, head: str, goal: float, tokens: Tensor, probs: Tensor) -> Tensor:
        """What a reward head makes of these next tokens, `(k,)`: 1 of it moves the distribution by some `BUDGET`."""
        reward = self._heads[head]
        measured = reward.calibration
        values = reward.head.rewards(self._state, self._embedding[tokens].float())
        return (2 * goal - 1) * measured.betas[BUDGET] * advantage(values, probs, measured.sigma, measured.clip)

    @cached_property
    def _text(self) -> str:
        """For judges alone: reward heads need no text."""
        return self._prompt + self._tokenizer.decode(list(self._token_ids), skip_special_tokens=True)

    def _log(self, judge: str, goal: float, endings: Sequence[str]) -> np.ndarray:
        scores = np.asarray(self._judges.scores_after(judge, self._text.rstrip(BROKEN), endings))
        return np.log(np.maximum(goal * scores + (1 - goal) * (1 - scores), LEAST))
