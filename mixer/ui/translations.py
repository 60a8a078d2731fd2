"""The page's words in other languages. English itself is the key: what has no translation stays English.

One catalog, assets/translations.yaml, for scripts, templates and Gradio's own labels, all applied by assets/web/desk.js:
Gradio's `I18n` asks the browser for its language before the page can say otherwise. Texts that the model writes,
formulas, and the server's answers to bad input are not translated.
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
    """The catalogs, and the script that uses them and that all others share, for the page's head."""
    data = json.dumps(catalogs(), ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="desk-words">{data}</script>\n<script>\n{read("desk.js")}</script>'
