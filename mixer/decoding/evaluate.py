"""What a formula means in numbers: from the log-probabilities of its branches to those of the next token.

    log P = log_softmax(sum_i f_i log Q_i / S),  S = sum_i f_i > 0

Every expression becomes a `Weighted` total, a mask or a scalar, and one `match` says how. Pure, in float32. Knows no
model and no tokenizer; what judges make of the text is asked of a `OpinionReader`.

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
    """What judges make of the text at one position. C is how far it shows what is asked for, above 0 and up to 1."""

    def candidates(self, judge: str, goal: float, tokens: list[int]) -> tuple[Tensor, float]:
        """log C of the text with each token after it, `(k,)` float32, and log C of the text as it is."""
        ...

    def strength(self, judge: str, goal: float) -> float:
        """C of the text as it is."""
        ...

    def advantages(self, head: str, goal: float, tokens: Tensor, logprobs: Tensor) -> Tensor:
        """What a reward makes of these next tokens of the text, in nats, `(k,)`."""
        ...


@dataclass(frozen=True, slots=True)
class Weighted:
    """A weighted sum of log-probabilities.

    Attributes:
        total: the sum, `(..., V)` float32.
        weight: the sum of the weights, one for all tokens or `(..., V)`.
        size: at least the sum of the absolute weights; rounding in `weight` is small beside it.
        normal: whether `total` is normalized as it is, with weight 1.
    """

    total: Tensor
    weight: float | Tensor
    size: float
    normal: bool = False


Value = Weighted | Tensor | float  # a distribution or bias; a mask, perhaps times a scalar, `(..., V)`; a scalar


@torch.no_grad()
def evaluate(bound: BoundFormula, logprobs: Mapping[Branch, Tensor], opinions: OpinionReader | None = None) -> Tensor:
    """The next-token distribution of a formula.

    Args:
        logprobs: of every branch in `bound.branches`, normalized, `(V,)`, or `(n, V)` for n positions of one text.
        opinions: for a formula that reads the text; it knows one position, and `logprobs` are `(V,)` then.

    Returns:
        `(V,)` or `(n, V)` float32, normalized. On a CPU a position has the same bits alone and among others.

    Raises:
        FormulaError: weights add up to 0 or less for some token, no token is left, or one that was cut off would become
            infinitely likely.
    """
    if bound.needs_opinions and (opinions is None or next(iter(logprobs.values())).ndim != 1):
        raise ValueError("a formula that reads the text takes a opinions and one position at a time")
    return _Evaluation(bound, logprobs, opinions).normalized(bound.formula.result)


@torch.no_grad()
def without_opinions(bound: BoundFormula, logprobs: Mapping[Branch, Tensor], opinions: OpinionReader | None) -> Tensor:
    """What a formula is before its judges and rewards, `(V,)`; its first term where that is nothing."""
    try:
        return _Evaluation(bound, logprobs, opinions, judged=False).normalized(bound.formula.result)
    except FormulaError:
        return logprobs[bound.branches[0]].float()


class _Evaluation:
    """One evaluation, in which equal expressions are computed once. Without `judged`, judges have nothing to say."""

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
        """The log-probabilities that an expression stands for, `(..., V)`."""
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
        # Where every token is cut off or one is infinite, the sum of all is no number, and no token's share is one.
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
            case Product(factors):  # the vector last
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
                opinion = self._bound.judge_goals[node]
                assert self._opinions is not None
                return self._opinions.strength(opinion.judge, opinion.goal)
            case fn.Ban():
                return _bias(torch.zeros_like(self._any))
            case _:
                raise NotImplementedError(f"{type(node).__name__} has no meaning in numbers")

    def _normalized_pick(self, parts: Sequence[Expr], largest: bool) -> Weighted:
        values = [(self.normalized(part), self._vector(part)) for part in parts]
        best = _pick([Weighted(logprobs, own.weight, own.size) for logprobs, own in values], largest)
        return Weighted(best.total * best.weight, best.weight, best.size)

    def _judgment(self, node: fn.JudgeCall) -> Tensor:
        """log C(x t) - log C(x) for the likeliest tokens t, 0 for all others, `(V,)` (FUDGE, arXiv 2104.05218)."""
        over = self._unjudged if node.over is None else self.normalized(node.over)
        likeliest = over.topk(min(node.k, over.numel()))
        tokens = likeliest.indices[likeliest.values > -torch.inf]
        opinion = self._bound.judge_goals[node]
        goal = node.goal * opinion.goal + (1 - node.goal) * (1 - opinion.goal)
        assert self._opinions is not None
        after, before = self._opinions.candidates(opinion.judge, goal, tokens.tolist())
        return torch.zeros_like(over).scatter(0, tokens, after.to(over) - before)

    def _rewarded(self, node: fn.RewardCall) -> Tensor:
        """The advantages of the likely tokens, 0 for all others, `(V,)`: a head knows nothing of unlikely ones."""
        over, opinion = self._unjudged, self._bound.judge_goals[node]
        tokens = likely(over).nonzero()[:, 0]
        assert self._opinions is not None
        values = self._opinions.advantages(opinion.judge, opinion.goal, tokens, over[tokens])
        return torch.zeros_like(over).scatter(0, tokens, values.to(over))

    @cached_property
    def _unjudged(self) -> Tensor:
        """See `without_opinions`."""
        return without_opinions(self._bound, self._logprobs, self._opinions)

    @property
    def _any(self) -> Tensor:
        """Some branch's log-probabilities, for their shape and device."""
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
    """0 times anything is 0, also where a token is cut off."""
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
    """Per token the part whose total is largest (smallest), with its weight; of equal ones the first."""
    best, *others = parts
    for other in others:
        total = (torch.maximum if largest else torch.minimum)(best.total, other.total)
        weight = best.weight
        if isinstance(weight, Tensor) or isinstance(other.weight, Tensor) or weight != other.weight:
            weight = torch.where(total == best.total, weight, other.weight)
        best = Weighted(total, weight, max(best.size, other.size))
    return best


def _each_row(compute: Callable[..., Tensor], *tables: Tensor) -> Tensor:
    """A function of rows `(V,)`, for tables `(V,)` or `(n, V)`. Sums over one row are added up in another order than
    those over each of several, so these too are taken one by one."""
    if tables[0].ndim == 1:
        return compute(*tables)
    return torch.stack([compute(*rows) for rows in zip(*tables, strict=True)])


@lru_cache
def _options(k: int, p: float, minp: float, t: float) -> SamplingParams:
    return SamplingParams(temperature=t, top_k=k, top_p=p, min_p=minp)


def _changed(p: Tensor, q: Tensor) -> Tensor:
    """By how much D = KL(p || q) changes when one token is left out of both, for each token x, `(V,)`:

        | p_x / (1 - p_x) (D - log(p_x / q_x)) + log(1 - q_x) - log(1 - p_x) |

    Args:
        p, q: log-probabilities `(V,)`.
    """
    endless = (q == -torch.inf) & (p > -torch.inf)
    count = int(endless.sum())
    if count:  # D is infinite, and stays so unless what alone makes it so is left out
        return torch.where(endless, torch.inf, 0.0) if count == 1 else torch.zeros_like(p)
    probs, ratios = p.exp(), torch.where(p > -torch.inf, p - q, 0.0)
    divergence = (probs * ratios).sum()
    p_others, q_others = _log_others(p), _log_others(q)
    change = probs / (1 - probs) * (divergence - ratios) + q_others - p_others
    # Of the likeliest token so much may be lost in 1 - p that the others are added up instead.
    best = int(p.argmax())
    left = torch.exp(p - p_others[best])
    left[best] = 0.0
    change[best] = (left * ratios).sum() - divergence + q_others[best] - p_others[best]
    return change.abs().nan_to_num(nan=torch.inf)  # where no other token is left


def _log_others(logprobs: Tensor) -> Tensor:
    """log(1 - p) of each token, `(V,)`, exact also where p is near 1."""
    best, others = int(logprobs.argmax()), logprobs.clone()
    others[best] = -torch.inf
    result = torch.log1p(-logprobs.exp())
    result[best] = others.logsumexp(0)
    return result
