"""The pad under mouse, finger and keys in a real browser: what it asks of the deck, its dots, and the radar."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from mixer import Desk
from tests.browser.conftest import Server, Visit
from tests.browser.test_formula import positions
from tests.browser.test_page import generate, stop, text, wait
from tests.browser.test_rewards import press, what
from tests.browser.test_state import prompt, shared, undo

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]


def opened(page: Page) -> Page:
    """The page with the pad open."""
    page.get_by_role("tab", name="Pad").click()
    page.locator(".square").scroll_into_view_if_needed()
    expect(page.locator(".square")).to_be_visible()
    return page


def spot(page: Page, x: float, y: float) -> tuple[float, float]:
    """The point of the screen for two positions on the pad."""
    left, top = page.evaluate(
        """([x, y]) => {
            const square = document.querySelector(".square");
            const box = square.getBoundingClientRect();
            return [box.x + square.clientLeft + square.clientWidth * (x + 1.5) / 3,
                    box.y + square.clientTop + square.clientHeight * (1.5 - y) / 3];
        }""",
        [x, y],
    )
    return left, top


def axis(page: Page, index: int) -> Locator:
    return page.locator(".square input").nth(index)


def thumb(page: Page) -> tuple[float, float]:
    """Where the thumb is drawn, as positions."""
    x, y = page.evaluate("(({style}) => [style.left, style.top].map(parseFloat))(document.querySelector('.thumb'))")
    return round(x * 3 / 100 - 1.5, 3), round(1.5 - y * 3 / 100, 3)


def dots(page: Page) -> Locator:
    return page.get_by_role("toolbar", name="The last texts").get_by_role("button")


def write(page: Page) -> None:
    """Writes one more text."""
    former = dots(page).count()
    page.click("#generate")
    expect(dots(page)).to_have_count(former + 1, timeout=30_000)


def test_a_drag_of_sixty_moves_ends_at_its_last_value_in_the_deck_and_on_the_server(
    visit: Visit, server: Server
) -> None:
    page = opened(visit())
    page.mouse.move(*spot(page, 0, 0))
    page.mouse.down()
    for i in range(60):
        page.mouse.move(*spot(page, 1.2 - i / 50, i / 60 - 0.9))
    page.mouse.move(*spot(page, -0.35, 0.8))
    page.mouse.up()
    assert positions(page) == {"formality": -0.35, "humor": 0.8}
    assert thumb(page) == (-0.35, 0.8)
    wait(
        page, lambda: any(browser.value.positions == {"formality": -0.35, "humor": 0.8} for browser in server.browsers)
    )
    undo(page)  # one drag is one step
    wait(page, lambda: positions(page) == {})
    wait(page, lambda: thumb(page) == (0, 0))


@pytest.mark.slow
def test_a_drag_beyond_the_rim_stops_at_the_limit(visit: Visit) -> None:
    page = opened(visit())
    page.mouse.move(*spot(page, 0.5, 0.5))
    page.mouse.down()
    page.mouse.move(*spot(page, 4, -4), steps=6)
    page.mouse.up()
    assert positions(page) == {"formality": 1.5, "humor": -1.5}
    page.mouse.dblclick(*spot(page, 0.5, 0.5))
    assert positions(page) == {}


def test_a_finger_steers_in_mid_text(visit: Visit) -> None:
    page = opened(visit(390, 844, touch=True))
    generate(page)
    page.locator(".square").scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    client = page.context.new_cdp_session(page)

    def touch(kind: str, *at: float) -> None:
        points = [{"x": at[0], "y": at[1]}] if at else []
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", *spot(page, 0, 0))
    for i in range(20):
        touch("touchMove", *spot(page, i / 20, -i / 20))
    touch("touchMove", *spot(page, 0.9, -1.25))
    touch("touchEnd")
    wait(page, lambda: positions(page) == {"formality": 0.9, "humor": -1.25})
    expect(what(page)).to_have_text("formality +0.90 · humor −1.25")
    stop(page)


def test_arrow_keys_move_either_slider_and_home_brings_both_to_rest(visit: Visit) -> None:
    page = opened(visit())
    axis(page, 0).focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "Shift+ArrowLeft", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    assert positions(page) == {"formality": -0.35}
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("ArrowUp")
    assert positions(page) == {"formality": -0.35, "humor": 0.3}
    expect(axis(page, 1)).to_be_focused()  # a screen reader says what moved
    expect(axis(page, 1)).to_have_attribute("aria-label", "humor: plain to humorous")
    expect(axis(page, 1)).to_have_attribute("aria-valuetext", "+0.30, humorous")
    for _ in range(8):
        page.keyboard.press("Shift+ArrowDown")
    assert positions(page) == {"formality": -0.35, "humor": -1.5}
    expect(axis(page, 1)).to_have_attribute("aria-valuetext", "−1.50, plain, beyond the anchor")
    page.keyboard.press("Home")
    assert positions(page) == {}
    expect(axis(page, 1)).to_have_attribute("aria-valuetext", "0, base")


@pytest.mark.slow
def test_the_thumb_follows_the_deck_and_its_axes_can_be_chosen(visit: Visit) -> None:
    page = opened(visit(query="?v=1&p=x&formality=0.6&poetry=-1.2"))
    wait(page, lambda: thumb(page) == (0.6, 0))
    press(page, page.locator("[data-name=humor]"), "End")
    wait(page, lambda: thumb(page) == (0.6, 1.5))
    page.get_by_label("Upward").select_option("poetry")
    assert thumb(page) == (0.6, -1.2)
    assert page.locator(".pad .pole").all_inner_texts() == ["poetic", "informal", "formal", "prose"]
    page.get_by_label("Upward").select_option("formality")  # the two change places
    assert page.get_by_label("Across").input_value() == "poetry"
    assert thumb(page) == (-1.2, 0.6)
    page.reload()
    page.wait_for_selector("html[data-opened] .fader")
    expect(page.get_by_label("Across")).to_have_value("poetry")
    expect(page.get_by_label("Upward")).to_have_value("formality")
    wait(page, lambda: thumb(page) == (-1.2, 0.6))


def test_dots_bring_back_text_state_and_seed(visit: Visit, desk: Desk) -> None:
    page = opened(visit(query="?v=1&p=The+door+was&formality=-0.5&humor=1&n=16&seed=5&rate=0"))
    expect(dots(page)).to_have_count(0)
    write(page)
    first, before = text(page), shared(page, desk)
    expect(dots(page)).to_have_count(1)
    page.locator("#prompt textarea").fill("My dear")
    axis(page, 0).focus()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    write(page)
    expect(dots(page)).to_have_count(2)
    assert page.locator(".square line").count() == 2  # from asked to measured
    second = text(page)
    oldest = dots(page).first
    assert "asked: formality −0.50, humor +1.00; measured: formality" in (oldest.get_attribute("aria-label") or "")
    oldest.click()
    assert text(page) == first
    wait(page, lambda: thumb(page) == (-0.5, 1))
    page.wait_for_timeout(600)
    assert shared(page, desk) == before
    dots(page).last.focus()
    page.keyboard.press("ArrowLeft")
    expect(oldest).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert text(page) == second
    wait(page, lambda: positions(page) == {"formality": 0.25})
    page.get_by_role("button", name="History").click()
    page.get_by_role("button", name="Clear").click()
    page.keyboard.press("Escape")
    expect(dots(page)).to_have_count(0)
    assert page.locator(".square line").count() == 0


@pytest.mark.slow
def test_texts_of_one_place_lie_beside_each_other_and_can_be_dragged_over(visit: Visit) -> None:
    page = opened(visit(query="?v=1&p=The+door+was&formality=0.5&humor=0.5&n=4&rate=0"))
    for _ in range(3):
        write(page)
    centers = {(box["x"], box["y"]) for dot in dots(page).all() if (box := dot.bounding_box())}
    assert len(centers) == 3
    page.locator("#prompt textarea").fill("Mine")
    page.mouse.move(*spot(page, 0.5, 0.5))
    page.mouse.down()
    page.mouse.move(*spot(page, -0.5, -1), steps=10)
    page.mouse.up()
    assert positions(page) == {"formality": -0.5, "humor": -1.0}
    assert prompt(page) == "Mine"


@pytest.mark.slow
def test_the_measured_point_and_the_radar_tell_what_the_deck_tells(visit: Visit) -> None:
    page = opened(visit(query="?v=1&p=The+door+was&formality=-0.5&humor=1&n=24&rate=0"))
    expect(page.locator(".square .got")).to_be_hidden()
    write(page)
    expect(page.locator(".square .got")).to_be_visible()
    rows = [row.locator("th, td").all_inner_texts() for row in page.locator(".radar tbody tr").all()]
    strips = page.locator(".strip:has(.fader)")
    deck = [
        [strip.locator(part).first.text_content() for part in (".name", ".asked", ".got")] for strip in strips.all()
    ]
    assert rows == deck and len(rows) > 2
    readings = page.locator(".reading").all_inner_texts()
    assert readings == [f"{asked}, measured {got}" for _, asked, got in deck[:2]]
    assert page.locator(".radar polygon.measured").get_attribute("points")


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_in_the_pad(visit: Visit, dark: bool) -> None:
    page = opened(visit(dark=dark, query="?v=1&p=The+door+was&formality=0.5&n=16&rate=0"))
    write(page)
    found = Axe().run(page).response["violations"]
    assert [v["id"] + ": " + v["nodes"][0]["html"] for v in found if v["impact"] in ("serious", "critical")] == []


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_the_pad_fits_a_desktop_and_a_phone(visit: Visit, direction: str) -> None:
    for width, height in ((1280, 800), (390, 844)):
        page = opened(visit(width, height, touch=width < 800))
        page.evaluate("direction => document.documentElement.dir = direction", direction)
        sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert sizes[0] == width and (width < 800 or sizes[1] == height)
        for part in (".square", ".axes", ".radar"):
            box = page.locator(part).bounding_box()
            assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width
