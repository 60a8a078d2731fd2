"""What a formula means in numbers: from the log-probabilities of its branches to those of the next token.

    log P = log_softmax(sum_i f_i log Q_i / S),  S = sum_i f_i > 0

Every expression becomes a `Weighted` sum, a mask or a scalar; one `match` computes them all. Pure functions, in
float32. Knows no model and no tokenizer. An `OpinionReader` answers what judges and reward heads say of the text.

Source: Dekoninck et al., "Controlled Text Generation via Language Model Arithmetic", arXiv 2311.14479.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Protocol

import torch
from torch import Tensor

from mixer.decoding.sampler import warp
from mixer.errors import FormulaError
from mixer.formula import functions as fn
from mixer.formula.analysis import SMALLEST, TOLERANCE
from mixer.formula.bind import BoundFormula, Branch
from mixer.formula.tree import Expr, Neg, Number, Product, Quotient, Ref, Sum, Term
from mixer.rewards.heads import likely
from mixer.values.sampling import SamplingParams


class OpinionReader(Protocol):
    """What judges and reward heads say of a text at one position.

    C is a judge's score for what the formula asks for, in (0, 1].
    """

    def candidates(self, judge: str, goal: float, tokens: list[int]) -> tuple[Tensor, float]:
        """log C of the text with each of k tokens appended, `(k,)` float32; and log C of the text itself."""
        ...

    def strength(self, judge: str, goal: float) -> float:
        """C of the text itself."""
        ...

    def advantages(self, head: str, goal: float, tokens: Tensor, logprobs: Tensor) -> Tensor:
        """A reward's advantages for k possible next tokens, in nats, `(k,)`.

        Args:
            tokens, logprobs: ids and log-probabilities of these tokens, `(k,)`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Weighted:
    """A weighted sum of log-probabilities.

    Attributes:
        total: the sum, `(..., V)` float32.
        weight: the sum of the weights; one number for all tokens, or `(..., V)`.
        size: an upper bound of the sum of the absolute weights. Rounding errors in `weight` are relative to it.
        normal: whether `total` is already normalized and its weight is 1.
    """

    total: Tensor
    weight: float | Tensor
    size: float
    normal: bool = False


Value = Weighted | Tensor | float  # a distribution or a bias; a mask `(..., V)`, perhaps times a scalar; a scalar


@torch.no_grad()
def evaluate(bound: BoundFormula, logprobs: Mapping[Branch, Tensor], opinions: OpinionReader | None = None) -> Tensor:
    """The next-token distribution of a formula.

    Args:
        logprobs: normalized log-probabilities of every branch in `bound.branches`: `(V,)`, or `(n, V)` for n
            positions of one text.
        opinions: needed by a formula with judges or rewards. It knows one position, so `logprobs` must be `(V,)`.

    Returns:
        Log-probabilities, `(V,)` or `(n, V)` float32, normalized. On a CPU the bits of a position do not depend on
        the other positions.

    Raises:
        FormulaError: the weights add up to 0 or less for some token, no token is left, or a token that was cut off
            would become infinitely likely.
        ValueError: the formula reads the text, and `opinions` is missing or `logprobs` has several positions.
    """
    if bound.needs_opinions and (opinions is None or next(iter(logprobs.values())).ndim != 1):
        raise ValueError("a formula that reads the text needs opinions, and one position at a time")
    return _Evaluation(bound, logprobs, opinions).normalized(bound.formula.result)


@torch.no_grad()
def without_opinions(bound: BoundFormula, logprobs: Mapping[Branch, Tensor], opinions: OpinionReader | None) -> Tensor:
    """The next-token distribution of a formula without its judges and rewards, `(V,)`.

    Where the rest of the formula has no value, the result is its first branch.
    """
    try:
        return _Evaluation(bound, logprobs, opinions, judged=False).normalized(bound.formula.result)
    except FormulaError:
        return logprobs[bound.branches[0]].float()


class _Evaluation:
    """One evaluation. Equal expressions are computed once. Where `judged` is False, judges and rewards count as 0."""

    def __init__(
        self,
        bound: BoundFormula,
        logprobs: Mapping[Branch, Tensor],
        opinions: OpinionReader | None,
        judged: bool = True,
    ) -> None:
        self._bound, self._logprobs, self._opinions, self._judged = bound, logprobs, opinions, judged
        self._formula = bound.formula
        self._known: dict[int, Value] = {}

    def normalized(self, node: Expr) -> Tensor:
        """The normalized log-probabilities of an expression, `(..., V)`."""
        value = self._vector(node)
        if value.normal:
            return value.total
        least = float(value.weight.min()) if isinstance(value.weight, Tensor) else value.weight
        lowest = max(TOLERANCE * value.size, SMALLEST)
        if not least > lowest:
            shown = "0" if least >= -lowest else f"{least:.6g}"
            where = " for some tokens" if isinstance(value.weight, Tensor) else ""
            hint = "It has to be more than 0: add a term, such as base, or let what is taken away weigh less."
            raise self._formula.error(f"The weights here add up to {shown}{where}.", hint, node)
        logprobs = torch.log_softmax(value.total / value.weight, dim=-1)
        # If every token is cut off, or one is infinite, log_softmax gives NaN for all tokens. So one token is enough.
        if logprobs[..., 0].isnan().any():
            if (value.total == -torch.inf).all(dim=-1).any():
                raise self._formula.error("No token is left here.", "Let one part keep what another cuts off.", node)
            hint = "top(...) can be added and multiplied by positive numbers."
            raise self._formula.error("A token that is cut off would become infinitely likely here.", hint, node)
        return logprobs

    def _value(self, node: Expr) -> Value:
        number = self._bound.numbers[id(node)]
        if number not in self._known:
            self._known[number] = self._computed(node)
        return self._known[number]

    def _vector(self, node: Expr) -> Weighted:
        value = self._value(node)
        assert isinstance(value, Weighted), f"{node} is no vector"
        return value

    def _computed(self, node: Expr) -> Value:
        match node:
            case Term():
                return _distribution(self._logprobs[self._bound.branch_of[node]].float())
            case Sum(parts):
                return reduce(_plus, map(self._value, parts))
            case Neg(value):
                return _times(-1.0, self._value(value))
            case Number(value):
                return value
            case Product(factors):  # _times wants the vector last
                values = sorted(map(self._value, factors), key=lambda value: isinstance(value, Weighted))
                return reduce(_times, values)
            case Quotient(value, divisor):
                return _times(1 / divisor, self._value(value))
            case Ref(name):
                return self._value(dict(self._formula.definitions)[name])
            case fn.Union(parts):
                return self._normalized_pick(parts, largest=True)
            case fn.Intersect(parts):
                return self._normalized_pick(parts, largest=False)
            case fn.Max(parts):
                return _pick([self._vector(part) for part in parts], largest=True)
            case fn.Min(parts):
                return _pick([self._vector(part) for part in parts], largest=False)
            case fn.Norm(value):
                return _distribution(self.normalized(value))
            case fn.Uniform():
                return _distribution(torch.full_like(self._any, -math.log(self._any.shape[-1])))
            case fn.Top(value, k, p, minp, t):
                kept = _each_row(lambda row: warp(row, _options(k, p, minp, t)), self.normalized(value))
                return _distribution(kept)
            case fn.Pos(value):
                return _bias(self._vector(value).total.clamp(min=0))
            case fn.Abs(value):
                return _bias(self._vector(value).total.abs())
            case fn.Indicator(value):
                return (self._vector(value).total >= 0).float()
            case fn.KLMask(source, target, divergence):
                p, q = self.normalized(source), self.normalized(target)
                return _each_row(lambda p, q: _changed(p, q) > divergence, p, q).float()
            case fn.SelfDebias(value, biased, strength):
                own, other = self.normalized(value), self.normalized(biased)
                return Weighted(own + strength * (own.exp() - other.exp()).clamp(max=0), 1.0, 1.0)
            case fn.Supersede(_, target):
                return self._value(target)
            case fn.JudgeCall():
                return _bias(self._judgment(node) if self._judged else torch.zeros_like(self._any))
            case fn.RewardCall():
                return _bias(self._rewarded(node) if self._judged else torch.zeros_like(self._any))
            case fn.Strength():
                asked = self._bound.judge_goals[node]
                assert self._opinions is not None
                return self._opinions.strength(asked.judge, asked.goal)
            case fn.Ban():
                return _bias(torch.zeros_like(self._any))
            case _:
                raise NotImplementedError(f"{type(node).__name__} has no meaning in numbers")

    def _normalized_pick(self, parts: Sequence[Expr], largest: bool) -> Weighted:
        values = [(self.normalized(part), self._vector(part)) for part in parts]
        best = _pick([Weighted(logprobs, own.weight, own.size) for logprobs, own in values], largest)
        return Weighted(best.total * best.weight, best.weight, best.size)

    def _judgment(self, node: fn.JudgeCall) -> Tensor:
        """log C(text + t) - log C(text) for the likeliest tokens t; 0 for others, `(V,)` (FUDGE, arXiv 2104.05218)."""
        over = self._unjudged if node.over is None else self.normalized(node.over)
        likeliest = over.topk(min(node.k, over.numel()))
        tokens = likeliest.indices[likeliest.values > -torch.inf]
        asked = self._bound.judge_goals[node]
        goal = node.goal * asked.goal + (1 - node.goal) * (1 - asked.goal)
        assert self._opinions is not None
        after, before = self._opinions.candidates(asked.judge, goal, tokens.tolist())
        return torch.zeros_like(over).scatter(0, tokens, after.to(over) - before)

    def _rewarded(self, node: fn.RewardCall) -> Tensor:
        """The advantages of likely tokens, `(V,)`; 0 for all others, on which no head was trained."""
        over, asked = self._unjudged, self._bound.judge_goals[node]
        tokens = likely(over).nonzero()[:, 0]
        assert self._opinions is not None
        values = self._opinions.advantages(asked.judge, asked.goal, tokens, over[tokens])
        return torch.zeros_like(over).scatter(0, tokens, values.to(over))

    @cached_property
    def _unjudged(self) -> Tensor:
        """The distribution before judges and rewards, `(V,)`; see `without_opinions`."""
        return without_opinions(self._bound, self._logprobs, self._opinions)

    @property
    def _any(self) -> Tensor:
        """Log-probabilities of any one branch. Only their shape and device are used."""
        return next(iter(self._logprobs.values())).float()


def _distribution(logprobs: Tensor) -> Weighted:
    return Weighted(logprobs, 1.0, 1.0, normal=True)


def _bias(total: Tensor) -> Weighted:
    return Weighted(total, 0.0, 0.0)


def _plus(a: Value, b: Value) -> Value:
    if isinstance(a, Weighted) and isinstance(b, Weighted):
        return Weighted(a.total + b.total, a.weight + b.weight, a.size + b.size)
    assert not isinstance(a, Weighted) and not isinstance(b, Weighted), "a scalar and a vector cannot be added"
    return a + b


def _times(factor: Value, value: Value) -> Value:
    """A product. 0 times anything is 0, also where the other factor is -inf (a token that was cut off)."""
    assert not isinstance(factor, Weighted), "at most one factor is a vector"
    if not isinstance(value, Weighted):
        return factor * value
    if isinstance(factor, Tensor):
        total = torch.where(factor == 0, 0.0, factor * value.total)
        return Weighted(total, factor * value.weight, float(factor.abs().max()) * value.size)
    if abs(factor) < torch.finfo(torch.float32).tiny:
        return _bias(torch.zeros_like(value.total))
    return Weighted(factor * value.total, factor * value.weight, abs(factor) * value.size)


def _pick(parts: Sequence[Weighted], largest: bool) -> Weighted:
    """For each token, the part with the largest (or smallest) total, with its weight; the first one of equal parts."""
    best, *others = parts
    for other in others:
        total = (torch.maximum if largest else torch.minimum)(best.total, other.total)
        weight = best.weight
        if isinstance(weight, Tensor) or isinstance(other.weight, Tensor) or weight != other.weight:
            weight = torch.where(total == best.total, weight, other.weight)
        best = Weighted(total, weight, max(best.size, other.size))
    return best


def _each_row(compute: Callable[..., Tensor], *tables: Tensor) -> Tensor:
    """Apply a function of rows `(V,)` to tables `(V,)` or `(n, V)`.

    Rows are taken one by one: torch sums one row in another order than several, which would change the last bits.
    """
    if tables[0].ndim == 1:
        return compute(*tables)
    return torch.stack([compute(*rows) for rows in zip(*tables, strict=True)])


@lru_cache
def _options(k: int, p: float, minp: float, t: float) -> SamplingParams:
    return SamplingParams(temperature=t, top_k=k, top_p=p, min_p=minp)


def _changed(p: Tensor, q: Tensor) -> Tensor:
    """How much D = KL(p || q) changes when token x is left out of both distributions, for each x, `(V,)`:

        | p_x / (1 - p_x) (D - log(p_x / q_x)) + log(1 - q_x) - log(1 - p_x) |

    Args:
        p, q: log-probabilities `(V,)`.
    """
    endless = (q == -torch.inf) & (p > -torch.inf)
    count = int(endless.sum())
    if count:  # D is infinite. It becomes finite only if a single token makes it so, and that one is left out
        return torch.where(endless, torch.inf, 0.0) if count == 1 else torch.zeros_like(p)
    probs, ratios = p.exp(), torch.where(p > -torch.inf, p - q, 0.0)
    divergence = (probs * ratios).sum()
    p_others, q_others = _log_others(p), _log_others(q)
    change = probs / (1 - probs) * (divergence - ratios) + q_others - p_others
    # For the likeliest token, 1 - p may lose most of its digits. The other tokens are added up instead.
    best = int(p.argmax())
    left = torch.exp(p - p_others[best])
    left[best] = 0.0
    change[best] = (left * ratios).sum() - divergence + q_others[best] - p_others[best]
    return change.abs().nan_to_num(nan=torch.inf)  # NaN: no other token is left


def _log_others(logprobs: Tensor) -> Tensor:
    """log(1 - p) of each token, `(V,)`. It stays precise where p is near 1."""
    best, others = int(logprobs.argmax()), logprobs.clone()
    others[best] = -torch.inf
    result = torch.log1p(-logprobs.exp())
    result[best] = others.logsumexp(0)
    return result
