"""A formula with one forward pass for each term, and the acceptance that a draft could reach.

The published implementation of model arithmetic (arXiv 2311.14479) runs each term in a forward pass of its own. This
module does the same with the backend of the desk and without its scheduler. Runs in a worker process.
"""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from mixer.decoding.evaluate import evaluate
from mixer.decoding.sampler import Sampler, warp
from mixer.decoding.text import encode_branch
from mixer.desk import Desk
from mixer.formula.bind import BoundFormula
from mixer.values.mix import Mix
from mixer.values.sampling import SamplingParams


class TermByTerm:
    """The terms of a formula, each in its own row and forward pass; use it as a context.

    Args:
        formula: a formula without judges.
        tokens: most tokens of the text.
    """

    def __init__(self, desk: Desk, formula: str | BoundFormula, prompt: str, tokens: int) -> None:
        self.bound = formula if isinstance(formula, BoundFormula) else desk.formula(formula).bound
        self._model = desk.model
        self._prompts = {branch: encode_branch(self._model, branch, prompt) for branch in self.bound.branches}
        self._tokens = tokens

    def __enter__(self) -> TermByTerm:
        self._model.lock.acquire()
        backend = self._model.backend
        backend.reserve(1 + len(self._prompts), max(map(len, self._prompts.values())) + self._tokens)
        for row, branch in enumerate(self._prompts, 1):
            backend.gate[row] = branch.under(Mix()).coefficients(self._model.anchors)
        return self

    def __exit__(self, *_: object) -> None:
        for row in range(1, 1 + len(self._prompts)):
            self._model.backend.gate[row] = None
        self._model.lock.release()

    def logprobs(self, before: int, new: list[int]) -> Tensor:
        """Log-probabilities of the formula after each of the tokens `new`, `(len(new), V)`.

        Args:
            before: number of tokens of the text that were read earlier.
            new: the next tokens; with an empty list the prompt is read, and the result is `(1, V)`.
        """
        found = {}
        for row, (branch, prompt) in enumerate(self._prompts.items(), 1):
            ids, at = (new, len(prompt) + before) if new else (prompt, 0)
            wanted = range(len(new)) if new else [len(prompt) - 1]
            logits = self._model.backend.forward(ids, [row] * len(ids), range(at, at + len(ids)), wanted)
            found[branch] = torch.log_softmax(logits[:, : self._model.vocab], dim=-1)
        return evaluate(self.bound, found)

    @torch.inference_mode()
    def write(self, params: SamplingParams) -> dict[str, Any]:
        """One text: its token ids, seconds to the first token, seconds of each later step."""
        assert params.seed is not None
        sampler, tokens, times = Sampler([params], self._model.eos_ids), [], [perf_counter()]
        for step in range(params.max_new_tokens):
            logprobs = self.logprobs(max(0, step - 1), tokens[-1:])
            (token,), _ = sampler(logprobs, [params.seed], [step], [step >= params.min_new_tokens])
            tokens.append(token)
            times.append(perf_counter())
        return {"tokens": tokens, "first": times[1] - times[0], "steps": [b - a for a, b in pairwise(times[1:])]}

    @torch.inference_mode()
    def along(self, tokens: list[int]) -> Tensor:
        """Log-probabilities before each token of a text, `(len(tokens), V)`."""
        first = self.logprobs(0, [])
        return torch.cat([first, self.logprobs(0, tokens[:-1])]) if len(tokens) > 1 else first


def acceptance(desk: Desk, target: str, draft: str, prompt: str, tokens: list[int], params: SamplingParams) -> dict:
    """The probability that a draft token is accepted, as a mean over the positions of a text.

    Returns:
        `best` and `coupled`: the two results of `overlap` for the probabilities of both formulas after temperature and
        truncation.
    """
    found = []
    for formula in (target, draft):
        with TermByTerm(desk, formula, prompt, len(tokens)) as terms:
            found.append([warp(row, params).exp() for row in terms.along(tokens)])
    shares = [overlap(p, q) for p, q in zip(*found, strict=True)]
    best, coupled = (sum(column) / len(tokens) for column in zip(*shares, strict=True))
    return {"best": best, "coupled": coupled}


def overlap(p: Tensor, q: Tensor) -> tuple[float, float]:
    """The probability that draws from two distributions `(V,)` agree: the best possible, and with shared noise.

    The first is sum_i min(p_i, q_i), the upper bound of all methods of drawing (arXiv 2211.17192). The second is
    sum_i 1 / sum_j max(p_j / p_i, q_j / q_i) (arXiv 2408.07978).
    """
    some = (p > 0) | (q > 0)
    p, q = p[some].double(), q[some].double()
    order = (q / p).argsort()  # p_j / p_i is the larger ratio for all j up to i, q_j / q_i for all later j
    p, q = p[order], q[order]
    shares = 1 / (p.cumsum(0) / p + (q.sum() - q.cumsum(0)) / q)
    return float(torch.minimum(p, q).sum()), float(shares.nan_to_num(0.0).sum())
