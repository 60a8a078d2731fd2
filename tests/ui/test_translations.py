"""The page's translations: every text has one, no translation is unused, and none loses a value such as `{name}`."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import pytest
from gradio.components.api_component import Api

from mixer import Desk
from mixer.adapters.anchor_set import read_labels
from mixer.resources import PAIRS, WEB
from mixer.ui import build, translations
from mixer.ui.translations import LANGUAGES, catalogs
from tests.ui.conftest import in_loop

SAID = re.compile(r'\b(?:say\(|known\([\w.]+,)\s*"((?:[^"\\]|\\.)*)"')
SAME = {"Python", "curl", "PEFT", "CSV", "float32", "bfloat16", "float16", "×"}  # the same in every language


class Texts(HTMLParser):
    """The texts of a template that people read."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._hidden += tag in ("svg", "style", "script")
        self.found |= {
            " ".join((given[name] or "").split()) for name in ("aria-label", "title", "placeholder") if name in given
        }

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("svg", "style", "script")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.add(" ".join(data.split()))


@pytest.fixture(scope="module")
def said(desk: Desk) -> set[str]:
    """Every English text that the page itself shows."""
    page = in_loop(lambda: build(desk))
    found: set[str] = set()
    for block in page.blocks.values():
        if isinstance(block, gr.HTML):
            texts = Texts()
            texts.feed(f"{block.html_template} {block.value if isinstance(block.value, str) else ''}")
            found |= texts.found
        elif not isinstance(block, Api):  # Gradio's own labels
            given = [getattr(block, name, None) for name in ("label", "info", "placeholder")]
            given += [block.value] if isinstance(block, gr.Button) else []
            found |= {text for text in given if isinstance(text, str)}
    for path in [*WEB.glob("*.js"), *Path(translations.__file__).parent.glob("*.py")]:
        found |= {json.loads(f'"{text}"') for text in SAID.findall(path.read_text(encoding="utf-8"))}
    for name in sorted({path.stem for path in PAIRS.glob("*.jsonl")}):  # of all bases that something is shipped for
        labels, description = read_labels(PAIRS / name)
        found |= {name.replace("_", " "), *labels, description}
    found -= {desk.name, *LANGUAGES.values(), *SAME}
    return {text for text in found if re.search(r"[A-Za-z]", re.sub(r"\{[^}]*\}", "", text))}


def test_every_text_of_the_page_is_in_every_language(said: set[str]) -> None:
    for language, catalog in catalogs().items():
        assert sorted(said - catalog.keys()) == [], language


def test_nothing_in_the_catalog_is_left_over(said: set[str]) -> None:
    for language, catalog in catalogs().items():
        assert sorted(catalog.keys() - said) == [], language


def test_values_go_where_they_went_in_english() -> None:
    for language, catalog in catalogs().items():
        for text, translation in catalog.items():
            assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", translation)), (language, text)


def test_the_head_holds_the_catalogs_and_no_end_of_its_element() -> None:
    head = translations.head()
    start = head.index(">") + 1
    assert json.loads(head[start : head.index("</script>")]) == {
        code: dict(found) for code, found in catalogs().items()
    }
