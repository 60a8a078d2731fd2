"""A text's next token without rows, caches or batches: one pass over the prompt for each branch. Slow, and plain."""

from __future__ import annotations

import torch
from torch import Tensor

from mixer.decoding.prompted import NO_STATE
from mixer.decoding.session import Session
from mixer.formula.bind import BASE


def first_logprobs(session: Session) -> Tensor:
    """Log-probabilities of a session's first token at temperature 1, `(V,)` float32, no truncation.

    Raises:
        FormulaError: the formula's weights come to nothing here.
    """
    prompted, wanted = session.prompted, session.wanted
    reward_branch = prompted.bound.reward_branch
    logprobs, states = {}, {}
    for one, (_, coefficients) in zip(prompted.branch_prompts, wanted.rows, strict=True):
        fused = wanted.prepared.strengths if one.branch == reward_branch else None
        logits, state = one.model.read(one.prompt_ids, coefficients, fused)
        logprobs[one.branch] = torch.log_softmax(logits[: prompted.model.vocab], dim=-1)
        states[one.branch] = state
    state = states.get(reward_branch, NO_STATE) if reward_branch else NO_STATE
    value = prompted.value(prompted.bound, logprobs, (), state)
    origin = logprobs[BASE] if wanted.prepared.steering.whole else None
    steered = prompted.steered(value, logprobs, (), state, wanted.prepared, 1.0, origin).logits
    return value if steered is value else torch.log_softmax(steered, dim=-1)
