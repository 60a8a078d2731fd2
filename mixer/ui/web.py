"""Reads the page's style sheets and scripts from assets/web/; does not know what is in them."""

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
    """The style sheets for the page's HTML head. Gradio's own `css` rewrites every rule and loses some."""
    return "\n".join(f"<style>\n{read(name)}</style>" for name in STYLES)


def script(*names: str) -> str:
    """The script of a component: the files of assets/web/, one after the other.

    The last file defines `mount`, which is called with the arguments that Gradio gives to a component's script, after
    the component's template has been translated.
    """
    text = "\n".join(read(name) for name in names)
    return f"{text}\ndesk.localize(element);\nmount(element, trigger, props, watch, server);\n"


def read(name: str) -> str:
    """A file of assets/web/ as text."""
    return (WEB / name).read_text(encoding="utf-8")
