"""A mixing desk for language models: sliders steer a resident model while its text streams.

Names are loaded when first used, so that importing a light part (the page, the errors) does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixer.desk import Desk, Output, Request
    from mixer.engine import Session, Stats, Step
    from mixer.errors import MixerError
    from mixer.mix import Anchor, Attribute, Mix, Setting
    from mixer.params import SamplingParams

_HOME = {
    "Anchor": "mixer.mix",
    "Attribute": "mixer.mix",
    "Desk": "mixer.desk",
    "Mix": "mixer.mix",
    "MixerError": "mixer.errors",
    "Output": "mixer.desk",
    "Request": "mixer.desk",
    "SamplingParams": "mixer.params",
    "Session": "mixer.engine",
    "Setting": "mixer.mix",
    "Stats": "mixer.engine",
    "Step": "mixer.engine",
}

__all__ = [
    "Anchor",
    "Attribute",
    "Desk",
    "Mix",
    "MixerError",
    "Output",
    "Request",
    "SamplingParams",
    "Session",
    "Setting",
    "Stats",
    "Step",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mixer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
