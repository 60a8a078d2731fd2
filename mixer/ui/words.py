"""The page's words in other languages. English itself is the key: what has no translation stays English.

One catalog, assets/words.yaml, for Gradio's own labels (`say`) and for the page's scripts and templates
(assets/desk.js). Texts that the model writes, formulas, and the server's answers to bad input are not translated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

import gradio as gr
import yaml
from gradio.i18n import I18nData

from mixer.ui.assets import read

LANGUAGES = {"en": "English", "zh": "中文", "he": "עברית", "pt": "Português"}


@cache
def catalogs() -> Mapping[str, Mapping[str, str]]:
    """Language -> English text -> translation; for every language but English."""
    table: dict[str, dict[str, str]] = yaml.safe_load(read("words.yaml"))
    others = [language for language in LANGUAGES if language != "en"]
    return {code: {text: row[code] for text, row in table.items() if code in row} for code in others}


def i18n() -> gr.I18n:
    """What Gradio translates its own components' labels by."""
    return gr.I18n(en={}, **{code: dict(words) for code, words in catalogs().items()})


def say(text: str) -> I18nData:
    """A label that Gradio shows in the reader's language."""
    return I18nData(text)


def head() -> str:
    """The catalogs, and the script that uses them and that all others share, for the page's head."""
    data = json.dumps(catalogs(), ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="desk-words">{data}</script>\n<script>\n{read("desk.js")}</script>'
