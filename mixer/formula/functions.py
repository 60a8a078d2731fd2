"""The functions of the language, as nodes. What they mean in numbers is said in `evaluate`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from mixer.formula.tree import FUNCTIONS, WORDS, Call, Expr, Formula


@dataclass(frozen=True)
class Union(Call, name="union"):
    """Per token the largest normalized log-probability."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Intersect(Call, name="intersect"):
    """Per token the smallest normalized log-probability."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Max(Call, name="max"):
    """Per token the largest value, as it is."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Min(Call, name="min"):
    """Per token the smallest value, as it is."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Norm(Call, name="norm"):
    """Normalized, with weight 1."""

    value: Expr


@dataclass(frozen=True)
class Uniform(Call, name="uniform"):
    """Every token alike."""

    def __str__(self) -> str:
        return "uniform"


@dataclass(frozen=True)
class Top(Call, name="top"):
    """The likeliest tokens alone: at temperature t, of those the k likeliest, of those at least minp as likely as the
    likeliest, of those the fewest that make up p."""

    value: Expr
    k: int = 0
    p: float = 1.0
    minp: float = 0.0
    t: float = 1.0


@dataclass(frozen=True)
class Pos(Call, name="pos"):
    """What is above 0."""

    value: Expr


@dataclass(frozen=True)
class Abs(Call, name="abs"):
    """The absolute value."""

    value: Expr


@dataclass(frozen=True)
class Indicator(Call, name="indicator"):
    """A mask: 1 where the value is at least 0."""

    value: Expr


@dataclass(frozen=True)
class KLMask(Call, name="klmask"):
    """A mask: 1 for tokens without which the divergence of two distributions changes by more than so many nats."""

    source: Expr
    target: Expr
    divergence: float = 0.01


@dataclass(frozen=True)
class SelfDebias(Call, name="selfdebias"):
    """A distribution less what a biased one makes likelier (Schick et al., arXiv 2103.00453)."""

    value: Expr
    biased: Expr
    strength: float


@dataclass(frozen=True)
class Supersede(Call, name="supersede"):
    """Exactly the target, guessed by the draft (speculative decoding)."""

    draft: Expr
    target: Expr


@dataclass(frozen=True)
class JudgeCall(Call, name="judge"):
    """What a judge thinks of each of the k likeliest next tokens, as a log-ratio (FUDGE, arXiv 2104.05218)."""

    attribute: str
    k: int = 50
    goal: float = 1.0
    over: Expr | None = None


@dataclass(frozen=True)
class Strength(Call, name="strength"):
    """A scalar from 0 to 1: how far the text so far shows an attribute."""

    attribute: str


@dataclass(frozen=True)
class RewardCall(Call, name="reward"):
    """What a reward head expects of each next token."""

    attribute: str


@dataclass(frozen=True)
class Ban(Call, name="ban"):
    """Words that the text may not hold."""

    words: tuple[str, ...]


RESERVED = frozenset([*FUNCTIONS, *WORDS])  # names that no definition may take


def drafted(formula: Formula) -> Formula:
    """The formula with every `supersede` replaced by its draft."""

    def draft(node: Expr) -> Expr:
        return draft(node.draft) if isinstance(node, Supersede) else node.with_children(draft)

    definitions = tuple((name, draft(value)) for name, value in formula.definitions)
    return Formula(draft(formula.result), definitions, formula.source)
