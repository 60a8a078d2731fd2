"""What judges make of a text that is being written, for formulas that ask them. Knows no rows and no formulas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mixer.judges import Judges

TAIL = 16  # tokens that are decoded anew with each candidate; characters never reach further back
LEAST = 1e-6  # no judge is so sure of itself that the logarithm may say minus infinity
BROKEN = "\ufffd"  # stands for a character of which bytes are missing


class TextReader:
    """Asks judges about one text and its possible next tokens; see `mixer.formula.evaluate.Reader`.

    Args:
        prompt: what comes before the text, and is read with it.
        token_ids: the text's.
    """

    def __init__(self, judges: Judges, tokenizer: Tokenizer, prompt: str, token_ids: Sequence[int]) -> None:
        self._judges, self._tokenizer = judges, tokenizer
        self._text = prompt + tokenizer.decode(list(token_ids), skip_special_tokens=True)
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

    def _log(self, judge: str, goal: float, endings: Sequence[str]) -> np.ndarray:
        scores = np.asarray(self._judges.scores_after(judge, self._text.rstrip(BROKEN), endings))
        return np.log(np.maximum(goal * scores + (1 - goal) * (1 - scores), LEAST))
