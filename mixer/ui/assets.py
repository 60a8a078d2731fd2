"""Finds and reads the page's style sheets and scripts; knows nothing of what is in them."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "assets"
STYLES = ("page.css", "deck.css", "formula.css", "stage.css")


def head() -> str:
    """The style sheets for the page's head. Not through Gradio's `css`, which rewrites every rule and loses some."""
    return "\n".join(f"<style>\n{(FOLDER / name).read_text(encoding='utf-8')}</style>" for name in STYLES)


def script(name: str) -> str:
    """A component's script: assets/NAME defines `mount`, which is called with what Gradio hands to a component."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return f"{text}\nmount(element, trigger, props, watch, server);\n"
