"""The web page: layout, deck, streaming handlers, live sessions. Receives a desk as an object; never imports torch."""

from __future__ import annotations

from mixer.ui.page import build, launch
from mixer.ui.snippets import Origin

__all__ = ["Origin", "build", "launch"]
