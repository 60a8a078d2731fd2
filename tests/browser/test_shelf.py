"""The shelf's tabs in a real browser: keys, layout, sizes for a finger, and accessibility by axe."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from mixer.ui.page import PANELS
from tests.browser.conftest import Visit
from tests.browser.test_page import finish, generate

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

COVERED = """() => [...document.querySelectorAll(
        "#shelf :is(button, input:not(.sr-only), select, a[href], [role=slider])")].filter((node) => {
    node.scrollIntoView({block: "center", inline: "nearest"});
    const box = node.getBoundingClientRect();
    if (!box.width || getComputedStyle(node).visibility === "hidden" || node.closest("[hidden]")) return false;
    const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return !(node.contains(hit) || hit?.contains(node));
}).map((node) => node.outerHTML.slice(0, 120))"""


def tab(page: Page, title: str) -> None:
    page.get_by_role("tab", name=title, exact=True).click()
    expect(page.get_by_role("tabpanel", name=title, exact=True)).to_be_visible()


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [v["id"] + ": " + v["nodes"][0]["html"] for v in found if v["impact"] in ("serious", "critical")]


def test_tabs_go_by_click_and_by_keys_and_are_remembered(visit: Visit) -> None:
    page = visit()
    titles = list(PANELS)
    tabs = page.get_by_role("tab")
    assert tabs.all_inner_texts() == titles
    assert page.get_by_role("tabpanel").count() == 0
    tab(page, titles[1])
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name=titles[2], exact=True)).to_be_visible()
    assert page.get_by_role("tabpanel").count() == 1
    page.keyboard.press("End")
    expect(tabs.last).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(tabs.first).to_have_attribute("aria-selected", "true")
    page.reload()
    page.wait_for_selector("html[data-opened] .fader")
    expect(tabs.first).to_have_attribute("aria-selected", "true")
    tabs.first.click()
    assert page.get_by_role("tabpanel").count() == 0


@pytest.mark.parametrize(
    ("width", "height", "dark"),
    [(1280, 800, False), pytest.param(1280, 800, True, marks=pytest.mark.slow), (390, 844, False)],
    ids=["light", "dark", "phone"],
)
def test_every_tab_fits_can_be_hit_and_pleases_axe(visit: Visit, width: int, height: int, dark: bool) -> None:
    page = visit(width, height, dark=dark, touch=width < 800)
    page.locator(".fader").first.focus()
    page.keyboard.press("End")
    generate(page, tokens=16)
    finish(page)
    for title in PANELS:
        tab(page, title)
        page.wait_for_timeout(1200)
        sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert sizes[0] == width and (width < 800 or sizes[1] == height), title
        assert serious(page) == [], title
        assert page.evaluate(COVERED) == [], title
