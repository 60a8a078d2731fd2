"""The web page: layout, controls, panels, handlers, running takes. Gets a desk as an object; never imports torch."""

from __future__ import annotations

from mixer.ui.page import build
from mixer.ui.server import launch
from mixer.ui.state.snippets import DeskSource

__all__ = ["DeskSource", "build", "launch"]
