"""A mixing desk for language models: sliders steer a resident model while its text streams.

Names are loaded when first used, so that importing a light part (the page, the errors) does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixer.decoding.session import Session
    from mixer.decoding.steps import Segment, Stats, Step
    from mixer.desk import Desk, Output
    from mixer.errors import MixerError
    from mixer.export import export_adapter, export_merged
    from mixer.files.mix_file import load_mix, save_mix
    from mixer.tasks.effects import Effects, effects
    from mixer.values.mix import Anchor, Attribute, Mix, Setting
    from mixer.values.request import Request
    from mixer.values.sampling import SamplingParams
    from mixer.values.steering import Steering

_HOME = {
    "Anchor": "mixer.values.mix",
    "Attribute": "mixer.values.mix",
    "Desk": "mixer.desk",
    "Effects": "mixer.tasks.effects",
    "Mix": "mixer.values.mix",
    "MixerError": "mixer.errors",
    "Output": "mixer.desk",
    "Request": "mixer.desk",
    "SamplingParams": "mixer.values.sampling",
    "Segment": "mixer.decoding.steps",
    "Session": "mixer.decoding.session",
    "Setting": "mixer.values.mix",
    "Stats": "mixer.decoding.steps",
    "Steering": "mixer.values.steering",
    "Step": "mixer.decoding.steps",
    "effects": "mixer.tasks.effects",
    "export_adapter": "mixer.export",
    "export_merged": "mixer.export",
    "load_mix": "mixer.files.mix_file",
    "save_mix": "mixer.files.mix_file",
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
