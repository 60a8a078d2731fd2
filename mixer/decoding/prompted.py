"""A formula and a prompt together: what each branch of the formula reads, and who is asked about the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mixer.decoding.evaluate import evaluate, without_opinions
from mixer.decoding.opinions import OpinionSource
from mixer.decoding.penalties import Penalties
from mixer.formula.bind import BoundFormula, Branch
from mixer.model.model import Model
from mixer.rewards.controller import PreparedSteering, RewardController, SteeredLogits
from mixer.values.chat import Prompt
from mixer.values.mix import Mix

NO_STATE = torch.zeros(0)


@dataclass(frozen=True)
class BranchPrompt:
    """A branch of a formula, the model that computes it, and the tokens that it reads before the text."""

    branch: Branch
    model: Model
    prompt_ids: tuple[int, ...]

    def under(self, sliders: Mix) -> tuple[Mix, tuple[float, ...]]:
        """The branch's mix and its coefficients, `(K,)`, for this position of the sliders.

        Raises:
            UnknownName: the mix names an anchor that is not loaded. InvalidValue: a coefficient is out of range.
        """
        mix = self.branch.under(sliders)
        return mix, mix.coefficients(self.model.anchors)


@dataclass(frozen=True, eq=False)
class PromptedFormula:
    """What a session writes by, made by `Catalog.prompted`.

    Attributes:
        model: the resident model.
        prompt: a text or a conversation, and prompt_ids: as the resident model reads it.
        bound: the formula.
        branch_prompts: one for each row: the formula's branches, a draft's, the base where a budget counts from it.
        controller: the reward heads that may steer.
        opinions: who is asked about the text.
    """

    model: Model
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    bound: BoundFormula
    branch_prompts: tuple[BranchPrompt, ...]
    controller: RewardController
    opinions: OpinionSource

    @cached_property
    def follows(self) -> bool:
        """Whether the sliders act on any of its rows."""
        return any(branch_prompt.branch.follows for branch_prompt in self.branch_prompts)

    @cached_property
    def context_room(self) -> int:
        """Tokens that fit behind the longest prompt."""
        return min(one.model.context - len(one.prompt_ids) for one in self.branch_prompts)

    @cached_property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(one.prompt_ids) for one in self.branch_prompts)

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """The distinct models of its rows."""
        return tuple({one.model.order: one.model for one in self.branch_prompts}.values())

    def value(
        self, bound: BoundFormula, logprobs: dict[Branch, Tensor], token_ids: Sequence[int], state: Tensor
    ) -> Tensor:
        """Logits `(V,)` of this formula, or of its draft, after these tokens.

        Args:
            logprobs: of each of its branches, `(V,)`.
            state: the hidden state of the branch that reward heads read, `(D,)`.
        """
        return evaluate(bound, logprobs, self.opinions.after(token_ids, state) if bound.needs_opinions else None)

    def steered(
        self,
        logits: Tensor,
        logprobs: dict[Branch, Tensor] | None,
        token_ids: Sequence[int],
        state: Tensor,
        prepared: PreparedSteering,
        temperature: float,
        origin: Tensor | None,
        penalties: Penalties | None = None,
    ) -> SteeredLogits:
        """What the rewards make of the formula's logits, `(V,)`, after these tokens.

        Args:
            logprobs, state: as for `value`. The budget counts the part of judges, so where the formula asks any, the
                log-probabilities are needed.
            temperature: at which the budget counts.
            origin: where the budget counts from, `(V,)`; None for the formula without judges.
            penalties: what acted on the formula's logits. It acts on where the budget counts from too, so that the
                budget pays nothing for it.
        """
        plain = None
        if self.bound.judge_goals and logprobs is not None:
            plain = without_opinions(self.bound, logprobs, self.opinions.after(token_ids, state))
            plain = penalties(plain, token_ids) if penalties else plain
            plain = plain.masked_fill(logits == -torch.inf, -torch.inf)
        origin = penalties(origin, token_ids) if penalties and origin is not None else origin
        ids = [*self.prompt_ids, *token_ids] if prepared.models else ()
        return self.controller.steer(logits, state, prepared, temperature, ids, plain, origin)
