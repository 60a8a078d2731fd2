"""The shipped presets (see `mixer.files.presets`) that this desk can run, as states of the page."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixer.errors import FormulaError, MixerError
from mixer.files.presets import load_presets
from mixer.ui.state.controls import LIMIT
from mixer.ui.state.page_state import PageState

if TYPE_CHECKING:
    from mixer.desk import Desk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """One entry of the menu.

    Attributes:
        state: of a new page with this preset.
        about: what the preset does, in a sentence.
        credit: the paper that it comes from.
    """

    name: str
    state: PageState
    about: str
    credit: str


def presets(desk: Desk) -> list[Choice]:
    """The presets that this desk can run, in the file's order; none where the file cannot be read."""
    try:
        known = load_presets()
    except MixerError as error:
        log.warning("There are no presets: %s", error)
        return []
    found = []
    for preset in known:
        try:
            desk.formula(preset.formula)
        except FormulaError:
            continue  # it names what is not loaded here
        settings = {name: max(-LIMIT, min(LIMIT, x)) for name, x in preset.settings.items() if name in desk.attributes}
        state = PageState(preset.prompt or PageState().prompt, preset.formula, settings)
        found.append(Choice(preset.name, state, preset.about, preset.credit))
    return found
