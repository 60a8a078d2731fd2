"""The deck's button Decouple: while it is on, sliders ask for levels of the scores, and the desk finds the positions.

The one place where sliders become a mix. Knows neither Gradio nor the browser session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from mixer.errors import Unsupported

if TYPE_CHECKING:
    from mixer.adapters.calibration import SliderCalibration
    from mixer.desk import Desk
    from mixer.ui.state.page_state import PageState
    from mixer.values.mix import Mix

LEFT_OUT = "decouple=1 was left out of the link: the anchors of this desk were not calibrated."


class Sliders(Protocol):
    """Where sliders stand, and whether these numbers are levels of the scores instead of positions."""

    @property
    def positions(self) -> Mapping[str, float]: ...
    @property
    def decouple(self) -> bool: ...


def calibration(desk: Desk) -> SliderCalibration | None:
    """The calibration that decouples the sliders of this desk; None if its anchors were not measured."""
    return desk.anchor_set.calibration


def positions_of(desk: Desk, sliders: Sliders) -> Mapping[str, float]:
    """The positions that the sliders ask for.

    Raises:
        Unsupported: the sliders are decoupled, and the desk's anchors were not measured.
    """
    if not sliders.decouple:
        return sliders.positions
    known = calibration(desk)
    if known is None:
        hint = "Leave decouple out, or run `python -m mixer evaluate coupling`."
        raise Unsupported("The anchors of this desk were not calibrated, so sliders cannot be decoupled.", hint)
    return known.positions(sliders.positions)


def mix_of(desk: Desk, sliders: Sliders) -> Mix:
    """The mix that the sliders ask for; raises as `positions_of`."""
    return desk.mix(positions_of(desk, sliders))


def without_decouple(desk: Desk, state: PageState) -> PageState:
    """The state that writes the same text with positions alone, and so needs no calibration."""
    return replace(state, positions=positions_of(desk, state), decouple=False)


def scales(desk: Desk) -> dict[str, list[float]] | None:
    """Attribute -> the scores that its levels -1, 0 and 1 ask for; None if nothing can be decoupled."""
    known = calibration(desk)
    return None if known is None else known.scales()
