"""Random tables in place of models and judges, to evaluate formulas without a network."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from mixer.decoding.evaluate import evaluate
from mixer.formula.bind import BoundFormula, Branch, bind
from mixer.formula.compile import compile_formula
from mixer.formula.tree import Expr, Formula
from tests.formula.trees import VOCABULARY


def bound(formula: str | Expr | Formula) -> BoundFormula:
    """A bound formula. Only a text is also checked."""
    if isinstance(formula, str):
        return compile_formula(formula, VOCABULARY).bound
    return bind(formula if isinstance(formula, Formula) else Formula(formula), VOCABULARY)


def tables(
    formulas: Iterable[BoundFormula], size: int = 12, seed: int = 0, spread: float = 2.0, rows: int | None = None
) -> dict[Branch, Tensor]:
    """Random log-probabilities `(size,)`, or `(rows, size)`, for every branch of these formulas: the same for a branch
    wherever it occurs."""
    shape = (size,) if rows is None else (rows, size)

    def table(branch: Branch) -> Tensor:
        name = f"{seed} {branch.follows} {branch.mix.key} {branch.prompt} {branch.only}"
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return torch.log_softmax(spread * torch.randn(shape, generator=generator), -1)

    return {branch: table(branch) for formula in formulas for branch in formula.branches}


class TableReader:
    """Judges whose scores are a function of a seed, the judge and the token. `asked` holds (judge, goal, tokens)."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.asked: list[tuple[str, float, tuple[int, ...]]] = []

    def score(self, judge: str, token: int | None) -> float:
        """Of the text with a token after it, or with none."""
        return float(np.random.default_rng([self.seed, *judge.encode(), 0 if token is None else token + 1]).uniform())

    def candidates(self, judge: str, goal: float, tokens: list[int]) -> tuple[Tensor, float]:
        self.asked.append((judge, goal, tuple(tokens)))
        logs = torch.tensor([self._shown(judge, goal, token) for token in tokens]).log()
        return logs, float(np.log(self._shown(judge, goal, None)))

    def strength(self, judge: str, goal: float) -> float:
        self.asked.append((judge, goal, ()))
        return self._shown(judge, goal, None)

    def advantages(self, head: str, goal: float, tokens: Tensor, logprobs: Tensor) -> Tensor:
        self.asked.append((head, goal, tuple(tokens.tolist())))
        rewards = torch.tensor([self.score(head, token) for token in tokens.tolist()])
        probs = logprobs.exp()
        return (2 * goal - 1) * (rewards - (rewards * probs).sum() / probs.sum())

    def _shown(self, judge: str, goal: float, token: int | None) -> float:
        score = self.score(judge, token)
        return max(goal * score + (1 - goal) * (1 - score), 1e-6)


def values(*given: str | Expr | Formula, reader: TableReader | None = None, **options) -> list[Tensor]:
    """Several formulas on the same tables, see `tables`."""
    known = [bound(formula) for formula in given]
    logprobs = tables(known, **options)
    return [evaluate(one, logprobs, reader) for one in known]


def models(*names: str, **options) -> list[Tensor]:
    """The log-probabilities in the same tables, float64."""
    return [table.double() for table in tables([bound(" + ".join(names))], **options).values()]


def near(one: Tensor, other: Tensor) -> bool:
    """Whether two log-probabilities are the same but for float32's rounding."""
    return torch.allclose(one.exp(), other.exp().float(), atol=1e-5) and torch.allclose(
        one.clamp(min=-40), other.clamp(min=-40).float(), atol=2e-4, rtol=1e-5
    )
