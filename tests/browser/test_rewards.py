"""Reward sliders in a real browser: a push and a level in mid-sentence, the budget, and what the page says of them."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Server, Visit
from tests.browser.test_page import finish, generate, grow, option, stop, text, wait

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]


def drawer(page: Page) -> None:
    """Shows the rewards if they are hidden."""
    button = page.get_by_role("button", name="Rewards", exact=True)
    if button.get_attribute("aria-expanded") == "false":
        button.click()


def slider(page: Page, name: str) -> Locator:
    drawer(page)
    return page.locator(f"[data-reward={name}]")


def aim(page: Page, name: str) -> Locator:
    drawer(page)
    return page.get_by_role("button", name=f"aim for a level of {name}")


def press(page: Page, slider: Locator, *keys: str) -> None:
    slider.focus()
    for key in keys:
        page.keyboard.press(key)


def what(page: Page) -> Locator:
    """The header of the mixed text: what its newest token was written under."""
    return page.locator("[data-pane=mix] .what")


def test_dragging_a_reward_in_mid_stream_steers_without_a_restart(visit: Visit, server: Server) -> None:
    page = visit()
    generate(page)
    before = text(page)
    assert text(page, "base").startswith(before) or before.startswith(text(page, "base"))
    handle = slider(page, "sentiment")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, middle, steps=12)
    page.mouse.up()
    assert handle.input_value() == "1"
    expect(what(page)).to_have_text("reward sentiment +1.00")
    assert page.locator("[data-pane=mix] .cut").count() >= 1
    grow(page)
    expect(page.locator(".budget .spent")).to_contain_text("spent")
    stop(page)
    assert text(page).startswith(before)
    assert text(page) != text(page, "base")
    assert not any(browser.busy for browser in server.browsers)


def test_a_level_to_aim_for_shows_the_reading_and_goes_by_the_keyboard(visit: Visit) -> None:
    page = visit()
    toxicity, button = slider(page, "toxicity"), aim(page, "toxicity")
    expect(button).to_have_attribute("aria-pressed", "false")
    button.focus()
    page.keyboard.press("Space")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(toxicity).to_have_attribute("aria-valuetext", "aim for 0.50")
    press(page, toxicity, "Home", "ArrowRight")
    expect(toxicity).to_have_attribute("aria-valuetext", "aim for 0.05")
    generate(page)
    expect(what(page)).to_have_text("toxicity to 0.05")
    reading = page.locator("#reading-of-toxicity")
    expect(reading).to_contain_text("The text so far reads 0.")
    expect(page.locator(".trim-row.aiming .tick")).to_be_visible()
    press(page, toxicity, "Delete")
    expect(what(page)).to_have_text("base")
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(reading).to_be_empty()
    stop(page)


def test_one_budget_holds_all_and_counts_the_sliders_from_the_next_text_on(visit: Visit) -> None:
    page = visit()
    assert page.locator(".budget.rest").count() == 1
    drawer(page)
    press(page, page.locator(".fader").first, "End")
    generate(page)
    assert page.locator(".budget .spent").inner_text() == ""
    page.get_by_label("count the sliders too").check()
    expect(page.locator(".budget .later")).to_have_text("The sliders count from your next Generate on.")
    page.click("#generate")
    expect(page.locator(".budget .later")).to_be_empty()
    expect(page.locator(".budget .spent")).to_contain_text("spent", timeout=15_000)  # the new text begins
    budget = page.get_by_label("KL budget")
    press(page, budget, "Home")
    expect(budget).to_have_attribute("aria-valuetext", "at most 0.05 nats a token")
    wait(page, lambda: 0 < float(page.locator(".budget .spent").inner_text().split()[-1]) <= 0.05)
    press(page, budget, "End")
    expect(budget).to_have_attribute("aria-valuetext", "no limit")
    page.get_by_role("button", name="Reset all").click()
    expect(budget).to_have_attribute("aria-valuetext", "at most 1 nats a token")
    expect(what(page)).to_have_text("base")
    expect(page.locator(".budget .spent")).to_be_empty()
    stop(page)


@pytest.mark.slow
def test_rewards_are_posted_where_any_steers_and_not_at_all_at_rest(visit: Visit) -> None:
    page = visit()
    page.evaluate(
        """() => {
            window.posted = [];
            const real = window.fetch;
            window.fetch = (url, options) => {
                const body = String(options?.body || "");
                if (body.includes('"positions"')) posted.push(JSON.parse(body).data[0]);
                return real(url, options);
            };
        }"""
    )

    def posted() -> dict:
        return page.evaluate("posted.at(-1) ?? {}")

    press(page, slider(page, "humor"), "End")
    aim(page, "toxicity").click()
    wait(page, lambda: posted().get("levels") == {"toxicity": 0.5})
    assert posted()["rewards"] == {"humor": 1}
    assert (posted()["budget"], posted()["whole"]) == (1, False)
    page.get_by_role("button", name="Reset all").click()
    wait(page, lambda: posted().keys() == {"seq", "positions"})
    press(page, page.get_by_label("KL budget"), "End")
    wait(page, lambda: posted().get("budget", 1) is None)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_while_rewards_steer(visit: Visit, dark: bool) -> None:
    page = visit(dark=dark)
    press(page, slider(page, "sentiment"), "Home")
    aim(page, "humor").click()
    page.get_by_label("count the sliders too").check()
    generate(page, tokens=16)
    finish(page)
    found = Axe().run(page).response["violations"]
    assert [v["id"] + ": " + v["nodes"][0]["html"] for v in found if v["impact"] in ("serious", "critical")] == []
    page.locator(".strips").evaluate("node => node.scrollTop = 0")
    covered = page.evaluate(
        """() => [...document.querySelectorAll(".trim, .aim, .budget input")].filter((node) => {
            node.scrollIntoView({block: "nearest", inline: "nearest"});
            const box = node.getBoundingClientRect();
            const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            return !node.contains(hit);
        }).map((node) => node.outerHTML.slice(0, 120))"""
    )
    assert covered == []


@pytest.mark.slow
def test_a_finger_moves_rewards_on_a_phone(visit: Visit) -> None:
    page = visit(390, 844, touch=True)
    option(page, "tokens", "16")
    aim(page, "toxicity").scroll_into_view_if_needed()
    aim(page, "toxicity").tap()
    handle = slider(page, "toxicity")
    box = handle.bounding_box()
    assert box is not None and box["height"] >= 36
    page.touchscreen.tap(box["x"] + 8, box["y"] + box["height"] / 2)
    assert handle.input_value() == "0"
    page.tap("#generate")
    finish(page)
    expect(what(page)).to_have_text("toxicity to 0.00")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
