"""The page in four languages, in a real browser: texts, direction, layout, and a state that survives the change."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from mixer.ui.page import PANELS
from mixer.ui.translations import catalogs
from tests.browser.conftest import Visit
from tests.browser.test_page import finish, text
from tests.browser.test_shelf import serious

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]


def choose(page: Page, language: str) -> None:
    page.locator("select.language").select_option(language)
    page.wait_for_selector(f"html[data-opened][lang={language}] .fader")


@pytest.mark.parametrize(
    "language", ["he", pytest.param("zh", marks=pytest.mark.slow), pytest.param("pt", marks=pytest.mark.slow)]
)
def test_a_language_changes_the_words_and_nothing_else(visit: Visit, language: str) -> None:
    page = visit(query="?v=1&poetry=0.85&p=The+door+was&n=16&seed=3")
    words = catalogs()[language]
    choose(page, language)
    assert page.locator("html").get_attribute("dir") == ("rtl" if language == "he" else "ltr")
    expect(page.locator("#generate")).to_have_text(words["Generate"])
    expect(page.get_by_role("button", name=words["Reset all"])).to_be_visible()
    assert page.get_by_role("tab").all_inner_texts() == [words[title] for title in PANELS]
    assert page.locator("[data-name=poetry]").input_value() == "0.85"
    assert page.locator("#prompt textarea").input_value() == "The door was"
    page.click("#generate")
    finish(page)
    assert text(page).startswith("The door was")
    page.get_by_role("tab").first.click()
    page.wait_for_timeout(1200)
    assert page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [1280, 800]
    assert serious(page) == []
    choose(page, "en")
    expect(page.locator("#generate")).to_have_text("Generate")
    assert page.locator("[data-name=poetry]").input_value() == "0.85"


@pytest.mark.slow
def test_a_phone_in_hebrew_is_as_wide_as_the_phone(visit: Visit) -> None:
    page = visit(390, 844, touch=True)
    choose(page, "he")
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(400)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    stop, generate = (page.locator(name).bounding_box() for name in ("#stop", "#generate"))
    assert stop is not None and generate is not None and stop["x"] > generate["x"]  # the first one stands on the right


@pytest.mark.slow
def test_sliders_run_from_left_to_right_in_every_language(visit: Visit) -> None:
    page = visit()
    choose(page, "he")
    fader = page.locator(".fader").first
    box = fader.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    assert float(fader.input_value()) > 1
