"""The page's texts in other languages. The key is the English text; a text without a translation stays English.

One catalog, assets/translations.yaml, has the texts of scripts, templates and Gradio's own labels. assets/web/desk.js
applies it, and not Gradio's `I18n`, which takes the browser's language and gives no choice. Texts that the model
writes, formulas, and the server's answers to bad input are not translated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

import yaml

from mixer.resources import TRANSLATIONS
from mixer.ui.web import read

LANGUAGES = {"en": "English", "zh": "中文", "he": "עברית", "pt": "Português"}


@cache
def catalogs() -> Mapping[str, Mapping[str, str]]:
    """Language -> English text -> translation; for every language but English."""
    table: dict[str, dict[str, str]] = yaml.safe_load(TRANSLATIONS.read_text(encoding="utf-8"))
    others = [language for language in LANGUAGES if language != "en"]
    return {code: {text: row[code] for text, row in table.items() if code in row} for code in others}


def head() -> str:
    """The catalogs and the shared script desk.js, for the page's HTML head."""
    data = json.dumps(catalogs(), ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="desk-words">{data}</script>\n<script>\n{read("desk.js")}</script>'
