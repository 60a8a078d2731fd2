"""The functions of the language, as nodes of the tree that the second stage (tokens -> tree) makes.

`mixer.decoding.evaluate` computes their values. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from mixer.formula.tree import FUNCTIONS, WORDS, Call, Expr, Formula


@dataclass(frozen=True)
class Union(Call, name="union"):
    """For each token the largest normalized log-probability of the parts."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Intersect(Call, name="intersect"):
    """For each token the smallest normalized log-probability of the parts."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Max(Call, name="max"):
    """For each token the largest value of the parts, not normalized."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Min(Call, name="min"):
    """For each token the smallest value of the parts, not normalized."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Norm(Call, name="norm"):
    """The normalized value, a distribution of weight 1."""

    value: Expr


@dataclass(frozen=True)
class Uniform(Call, name="uniform"):
    """The uniform distribution: all tokens are equally likely."""

    def __str__(self) -> str:
        return "uniform"


@dataclass(frozen=True)
class Top(Call, name="top"):
    """The likeliest tokens only. These act in turn: temperature `t`; the `k` likeliest tokens (0 keeps
    all); tokens at least `minp` times as likely as the likeliest; the fewest tokens whose probabilities reach `p`.
    """

    value: Expr
    k: int = 0
    p: float = 1.0
    minp: float = 0.0
    t: float = 1.0


@dataclass(frozen=True)
class Pos(Call, name="pos"):
    """The positive part: `max(value, 0)` for each token."""

    value: Expr


@dataclass(frozen=True)
class Abs(Call, name="abs"):
    """The absolute value for each token."""

    value: Expr


@dataclass(frozen=True)
class Indicator(Call, name="indicator"):
    """A mask: 1 for tokens whose value is at least 0, else 0."""

    value: Expr


@dataclass(frozen=True)
class KLMask(Call, name="klmask"):
    """A mask: 1 for a token if leaving it out changes `KL(source || target)` by more than `divergence` nats, else 0."""

    source: Expr
    target: Expr
    divergence: float = 0.01


@dataclass(frozen=True)
class SelfDebias(Call, name="selfdebias"):
    """A distribution, lowered for tokens that a biased one makes likelier (Schick et al., arXiv 2103.00453)."""

    value: Expr
    biased: Expr
    strength: float


@dataclass(frozen=True)
class Supersede(Call, name="supersede"):
    """The target's exact distribution. The draft proposes tokens for it (speculative decoding)."""

    draft: Expr
    target: Expr


@dataclass(frozen=True)
class JudgeCall(Call, name="judge"):
    """A judge's score for each of the `k` likeliest next tokens, as a log-ratio to the score of the text so far (FUDGE,
    arXiv 2104.05218). `over` says which distribution's likeliest tokens; None for the formula without its judges."""

    attribute: str
    k: int = 50
    goal: float = 1.0
    over: Expr | None = None


@dataclass(frozen=True)
class Strength(Call, name="strength"):
    """A judge's score of the text so far for an attribute: a number from 0 to 1."""

    attribute: str


@dataclass(frozen=True)
class RewardCall(Call, name="reward"):
    """A reward head's advantage of each likely next token; 0 for the others."""

    attribute: str


@dataclass(frozen=True)
class Ban(Call, name="ban"):
    """Words that must not occur in the text."""

    words: tuple[str, ...]


RESERVED = frozenset([*FUNCTIONS, *WORDS])  # names that a formula cannot define


def drafted(formula: Formula) -> Formula:
    """The formula with every `supersede` replaced by its draft."""

    def draft(node: Expr) -> Expr:
        return draft(node.draft) if isinstance(node, Supersede) else node.with_children(draft)

    definitions = tuple((name, draft(value)) for name, value in formula.definitions)
    return Formula(draft(formula.result), definitions, formula.source)
