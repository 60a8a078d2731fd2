"""A text's next token without rows, caches or batches: one pass over the prompt for each branch. Slow, and plain."""

from __future__ import annotations

import torch
from torch import Tensor

from mixer.decoding.evaluate import evaluate, without_opinions
from mixer.decoding.session import Session
from mixer.formula.bind import BASE

NOTHING = torch.zeros(0)


def first_logprobs(session: Session) -> Tensor:
    """Log-probabilities of a session's first token at temperature 1, `(V,)` float32, no truncation.

    Raises:
        FormulaError: the formula's weights come to nothing here.
    """
    bound, prepared = session.bound, session.controller.prepare(session.steering)
    logprobs, states = {}, {}
    for branch_prompt in session.branch_prompts:
        fused = prepared.strengths if branch_prompt.branch == bound.reward_branch else None
        logits, state = branch_prompt.model.read(branch_prompt.prompt_ids, branch_prompt.under(session.mix)[1], fused)
        logprobs[branch_prompt.branch] = torch.log_softmax(logits[: session.vocab], dim=-1)
        states[branch_prompt.branch] = state
    state = states.get(bound.reward_branch, NOTHING) if bound.reward_branch else NOTHING
    reader = session.opinions((), state)
    value = evaluate(bound, logprobs, reader)
    plain = without_opinions(bound, logprobs, reader) if bound.judge_goals else None
    origin = logprobs[BASE] if prepared.steering.whole else None
    steered = session.controller.steer(value, state, prepared, 1.0, session.prompt_ids, plain, origin).logits
    return value if steered is value else torch.log_softmax(steered, dim=-1)
