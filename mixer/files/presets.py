"""Presets: formulas for known techniques, each with a prompt and slider positions that show its effect.

This module reads and checks the file. It does not know what the formulas mean or which sliders exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from mixer.errors import BadArtifact, InvalidValue
from mixer.resources import PRESETS
from mixer.values.bounds import bounded
from mixer.values.mix import POSITION_LIMIT

HINT = "A preset has a name, a formula, about and credit, and may have a prompt and settings."


@dataclass(frozen=True)
class Preset:
    """One technique.

    Attributes:
        formula: as text.
        about: what it does, in a sentence.
        credit: the paper that it comes from.
        prompt: a prompt that shows its effect; None keeps the user's prompt.
        settings: attribute -> slider position.
    """

    name: str
    formula: str
    about: str
    credit: str
    prompt: str | None = None
    settings: Mapping[str, float] = field(default_factory=dict)


def load_presets(path: Path | str | None = None) -> tuple[Preset, ...]:
    """The presets of a file, in its order; the shipped ones if None.

    Raises:
        BadArtifact: the file cannot be read, an entry is no preset, or two presets have the same name.
    """
    path = Path(path or PRESETS)
    try:
        records = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadArtifact(f"The presets {path} cannot be read: {' '.join(str(error).split())[:300]}.", HINT) from error
    if not isinstance(records, list):
        raise BadArtifact(f"{path} is no list of presets.", HINT)
    presets = tuple(_preset(record, f"{path}, preset {place}") for place, record in enumerate(records, 1))
    names = [preset.name for preset in presets]
    for name in names:
        if names.count(name) > 1:
            raise BadArtifact(f"{path} has more than one preset called {name!r}.", "Give each a name of its own.")
    return presets


def _preset(record: Any, where: str) -> Preset:
    """One entry of the file as a preset; `where` begins the error."""
    known = [f.name for f in fields(Preset)]
    needed = [f.name for f in fields(Preset) if f.default is MISSING and f.default_factory is MISSING]
    if not isinstance(record, dict):
        raise BadArtifact(f"{where} holds no names with values.", HINT)
    for key in record:
        if key not in known:
            raise BadArtifact(f"{where} has {str(key)[:40]!r}, which means nothing here.", HINT)
    for key in needed:
        if key not in record:
            raise BadArtifact(f"{where} has no {key}.", HINT)
    for key, value in record.items():
        if key != "settings" and not (isinstance(value, str) and value.strip()):
            raise BadArtifact(f"{where}: {key} must be a text, not {str(value)[:40]!r}.", HINT)
    return Preset(**{**record, "settings": _settings(record.get("settings", {}), where)})


def _settings(record: object, where: str) -> Mapping[str, float]:
    if not isinstance(record, dict) or not all(isinstance(name, str) for name in record):
        raise BadArtifact(f"{where}: settings must be names with positions.", "Write settings: {humor: 0.5}.")
    try:
        positions = {
            name: bounded(f"{where}: settings.{name}", position, -POSITION_LIMIT, POSITION_LIMIT)
            for name, position in record.items()
        }
    except InvalidValue as error:
        raise BadArtifact(error.message, error.hint) from error
    return MappingProxyType(positions)
