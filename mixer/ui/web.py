"""Finds and reads the page's style sheets and scripts; knows nothing of what is in them."""

from __future__ import annotations

from mixer.resources import WEB

STYLES = (
    "page.css",
    "tools.css",
    "deck.css",
    "reward.css",
    "formula.css",
    "stage.css",
    "shelf.css",
    "export.css",
    "pad.css",
    "sweep.css",
    "paint.css",
    "batch.css",
)


def head() -> str:
    """The style sheets for the page's head. Not through Gradio's `css`, which rewrites every rule and loses some."""
    return "\n".join(f"<style>\n{read(name)}</style>" for name in STYLES)


def script(*names: str) -> str:
    """A component's script: the last of assets/web/NAME defines `mount`, called with what Gradio hands to a component.

    Before that the component's template is put into the reader's language.
    """
    text = "\n".join(read(name) for name in names)
    return f"{text}\ndesk.localize(element);\nmount(element, trigger, props, watch, server);\n"


def read(name: str) -> str:
    """A file of assets/web/ as text."""
    return (WEB / name).read_text(encoding="utf-8")
