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
    bound, course = session.bound, session.helm.course(session.steering)
    logprobs, states = {}, {}
    for reading in session.readings:
        fused = course.strengths if reading.branch == bound.voice else None
        logits, state = reading.model.read(reading.prompt_ids, reading.under(session.mix)[1], fused)
        logprobs[reading.branch] = torch.log_softmax(logits[: session.vocab], dim=-1)
        states[reading.branch] = state
    state = states.get(bound.voice, NOTHING) if bound.voice else NOTHING
    reader = session.reader((), state)
    value = evaluate(bound, logprobs, reader)
    plain = without_opinions(bound, logprobs, reader) if bound.opinions else None
    origin = logprobs[BASE] if course.steering.whole else None
    steered = session.helm.steer(value, state, course, 1.0, session.prompt_ids, plain, origin).logits
    return value if steered is value else torch.log_softmax(steered, dim=-1)
