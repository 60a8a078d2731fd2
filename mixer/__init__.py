"""A mixing desk for language models: sliders steer a resident model while its text streams.

Names are loaded when first used, so that importing a light part (the page, the errors) does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixer.contributions import Effects, effects
    from mixer.desk import Desk, Output, Request
    from mixer.engine import Segment, Session, Stats, Step
    from mixer.errors import MixerError
    from mixer.export import export_adapter, export_merged
    from mixer.mix import Anchor, Attribute, Mix, Setting
    from mixer.mixfile import load_mix, save_mix
    from mixer.params import SamplingParams
    from mixer.steering import Steering

_HOME = {
    "Anchor": "mixer.mix",
    "Attribute": "mixer.mix",
    "Desk": "mixer.desk",
    "Effects": "mixer.contributions",
    "Mix": "mixer.mix",
    "MixerError": "mixer.errors",
    "Output": "mixer.desk",
    "Request": "mixer.desk",
    "SamplingParams": "mixer.params",
    "Segment": "mixer.engine",
    "Session": "mixer.engine",
    "Setting": "mixer.mix",
    "Stats": "mixer.engine",
    "Steering": "mixer.steering",
    "Step": "mixer.engine",
    "effects": "mixer.contributions",
    "export_adapter": "mixer.export",
    "export_merged": "mixer.export",
    "load_mix": "mixer.mixfile",
    "save_mix": "mixer.mixfile",
}

__all__ = [
    "Anchor",
    "Attribute",
    "Desk",
    "Effects",
    "Mix",
    "MixerError",
    "Output",
    "Request",
    "SamplingParams",
    "Segment",
    "Session",
    "Setting",
    "Stats",
    "Steering",
    "Step",
    "effects",
    "export_adapter",
    "export_merged",
    "load_mix",
    "save_mix",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mixer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
