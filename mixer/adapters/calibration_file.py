"""The file of a slider calibration, in the folder of the anchors that it was measured with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mixer.adapters.calibration import SliderCalibration
from mixer.errors import BadArtifact
from mixer.values.mix import POSITION_LIMIT

FILE, FORMAT = "coupling.json", 1
HINT = "Delete it, and measure it again with `python -m mixer evaluate coupling`."
PARTS = ("rest", "below", "above", "leaving")  # of a calibration, in the file


def write_calibration(
    calibration: SliderCalibration, folder: Path, fingerprint: str, facts: Mapping[str, Any] = MappingProxyType({})
) -> Path:
    """Write a calibration to the folder of its anchors, in place of an earlier one; returns the path.

    Args:
        fingerprint: of base and anchors, as `mixer.adapters.anchor_set.anchors_fingerprint` gives it.
        facts: more entries of the file, for people.
    """
    record = {
        "format": FORMAT,
        "anchors_fingerprint": fingerprint,
        "attributes": calibration.attributes,
        "limit": calibration.limit,
        **{part: getattr(calibration, part).round(4).tolist() for part in PARTS},
    }
    path = folder / FILE
    path.write_text(json.dumps(record | dict(facts), indent=2) + "\n", encoding="utf-8")
    return path


def load_calibration(path: Path, fingerprint: str) -> SliderCalibration | None:
    """The calibration in a file; None if it was measured with another base or other anchors.

    Raises:
        BadArtifact: the file is damaged, or of a later format.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise BadArtifact(f"{path} has format {record['format']!r}; this program reads {FORMAT}.", HINT)
        if record["anchors_fingerprint"] != fingerprint:
            return None
        names = tuple(map(str, record["attributes"]))
        rest, below, above, leaving = (np.array(record[part], np.float64) for part in PARTS)
        limit = float(record["limit"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadArtifact(f"{path} is no calibration: {error!r}.", HINT) from error
    many = len(names)
    numbers = (rest, below, above, leaving)
    fits = [part.shape for part in numbers] == [(many,), (many, many), (many, many), (many,)]
    if not fits or not all(np.isfinite(part).all() for part in numbers) or not 0 < limit <= POSITION_LIMIT:
        raise BadArtifact(f"{path}: its numbers do not fit one another.", HINT)
    return SliderCalibration(names, *numbers, limit)
