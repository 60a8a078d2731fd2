"""What to write: one text of a batch, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field

from mixer.values.mix import Mix
from mixer.values.sampling import SamplingParams
from mixer.values.steering import REST, Steering


@dataclass(frozen=True)
class Request:
    """One text to write in a batch."""

    prompt: str
    mix: Mix = field(default_factory=Mix)
    params: SamplingParams = field(default_factory=SamplingParams)
    formula: str | None = None
    steering: Steering = REST
