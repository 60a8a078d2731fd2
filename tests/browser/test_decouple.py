"""The toggle Decouple in a real browser."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from mixer import Desk
from mixer.ui.state.decouple import positions_of
from mixer.ui.state.page_state import PageState
from mixer.ui.state.request import request
from tests.browser.conftest import Visit
from tests.browser.test_formula import fill, positions
from tests.browser.test_page import finish, generate, grow, stop, text, wait
from tests.browser.test_rewards import press, what
from tests.browser.test_state import share, shared, undo

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

STATE = PageState("The door was", positions={"formality": 0.6}, tokens=24, rate=0, decouple=True)
LINK = "?v=1&p=The+door+was&formality=0.6&decouple=1&n=24&rate=0"


def toggle(page: Page) -> Locator:
    return page.get_by_role("button", name="Decouple")


def test_switched_on_the_sliders_ask_and_the_page_says_so(visit: Visit, desk: Desk) -> None:
    page = visit(query=LINK.replace("&decouple=1", ""))
    expect(toggle(page)).to_have_attribute("aria-pressed", "false")
    toggle(page).click()
    expect(toggle(page)).to_have_attribute("aria-pressed", "true")
    expect(what(page)).to_have_text("formality +0.60 · decoupled")
    assert positions(page) == {"formality": 0.6}
    page.click("#generate")
    finish(page)
    expect(what(page)).to_have_text("formality +0.60 · decoupled")
    asked, _ = request(desk, STATE)
    assert text(page) == STATE.prompt + desk.generate_batch([asked])[0].text


def test_links_code_history_and_undo_carry_it(visit: Visit, desk: Desk) -> None:
    page = visit(query=LINK)
    expect(toggle(page)).to_have_attribute("aria-pressed", "true")
    assert shared(page, desk) == STATE
    told = share(page)
    assert "decouple=1" in told["Link"] and all(repr(x) in told["Python"] for x in positions_of(desk, STATE).values())
    page.click("#generate")
    finish(page)
    toggle(page).click()
    page.wait_for_timeout(500)
    assert not shared(page, desk).decouple
    undo(page)
    expect(toggle(page)).to_have_attribute("aria-pressed", "true")
    toggle(page).click()
    page.get_by_role("button", name="History").click()
    page.locator("#history-sheet li button").first.click()
    expect(toggle(page)).to_have_attribute("aria-pressed", "true")


def test_it_steers_in_mid_text_under_a_hand(visit: Visit) -> None:
    page = visit()
    generate(page)
    press(page, page.locator("[data-name=poetry]"), "End")
    expect(what(page)).to_have_text("poetry +1.50")
    toggle(page).click()
    expect(what(page)).to_have_text("poetry +1.50 · decoupled")
    grow(page)
    toggle(page).click()
    expect(what(page)).to_have_text("poetry +1.50")
    stop(page)


def test_a_weight_mix_has_positions_of_its_own(visit: Visit) -> None:
    page = visit(query=LINK)
    fill(page, "[0.5*formal]")
    wait(page, lambda: positions(page) == {"formality": 0.5})
    expect(toggle(page)).to_be_disabled()
    expect(toggle(page)).to_have_attribute("aria-pressed", "false")
    fill(page, "2*sliders - base")
    expect(toggle(page)).to_be_enabled()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_is_accessible(visit: Visit, dark: bool, width: int) -> None:
    page = visit(width, 800 if width > 820 else 844, dark=dark, touch=width < 820, query=LINK)
    expect(toggle(page)).to_be_visible()
    head = page.locator(".deck-head")
    assert head.evaluate("node => node.scrollWidth <= node.clientWidth && node.getBoundingClientRect().height < 40")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    found = Axe().run(page, ".deck").response["violations"]
    assert [v["id"] + ": " + v["nodes"][0]["html"] for v in found if v["impact"] in ("serious", "critical")] == []
