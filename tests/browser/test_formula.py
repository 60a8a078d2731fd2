"""The formula box in a real browser: its tie to the sliders, its errors, its examples."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Server, Visit
from tests.browser.test_page import finish, option, state, text, wait

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

BAD = "base + 2*fromal"


def fill(page: Page, formula: str) -> None:
    """Replaces the formula by typing."""
    page.locator("#formula textarea").click()
    page.keyboard.press("Control+A")
    page.keyboard.type(formula)


def formula(page: Page) -> str:
    return page.locator("#formula textarea").input_value()


def settled(page: Page, answer: str) -> None:
    """Waits for the server's answer about the formula."""
    expect(page.locator(".report")).to_contain_text(answer)


def positions(page: Page) -> dict[str | None, float]:
    found = {fader.get_attribute("data-name"): float(fader.input_value()) for fader in page.locator(".fader").all()}
    return {name: position for name, position in found.items() if position}


def test_a_weight_mix_and_the_sliders_move_each_other(visit: Visit) -> None:
    page = visit()
    option(page, "tokens", "16")
    fill(page, "[0.7*formal  + 0.3*rude]")
    wait(page, lambda: positions(page) == {"formality": 0.7, "politeness": -0.3})
    assert formula(page) == "[0.7*formal  + 0.3*rude]"

    fader = page.locator("[data-name=formality]")
    box = fader.bounding_box()
    assert box is not None
    at = [box["x"] + 6 + (box["width"] - 12) * (x + 1.5) / 3 for x in (0.7, -0.4)]
    page.mouse.move(at[0], box["y"] + 13)
    page.mouse.down()
    page.mouse.move(at[1], box["y"] + 13, steps=15)
    page.mouse.up()
    wait(page, lambda: formula(page) == "[0.40*informal  + 0.3*rude]")

    page.locator("[data-name=humor]").focus()
    page.keyboard.press("ArrowRight")
    wait(page, lambda: formula(page) == "[0.40*informal  + 0.3*rude + 0.05*humorous]")
    page.get_by_role("button", name="Reset all").click()
    wait(page, lambda: formula(page) == "[base]")

    fader.focus()
    page.keyboard.press("End")
    wait(page, lambda: formula(page) == "[1.50*formal]")
    page.click("#generate")
    finish(page)
    assert page.locator("[data-pane=mix] .what").inner_text() == "formality +1.50"


def test_a_wrong_formula_is_pointed_at_and_nothing_is_lost(visit: Visit, server: Server) -> None:
    page = visit()
    fill(page, "[0.5*polite]")
    wait(page, lambda: positions(page) == {"politeness": 0.5})
    chips = page.locator(".chips").first.bounding_box()
    fill(page, BAD)
    settled(page, "Did you mean formal")
    line, carets = page.locator(".fault pre").inner_text().split("\n")
    assert (line, carets.strip()) == (BAD, "^" * len("fromal"))
    expect(page.locator("#formula textarea")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#formula-fault")).to_contain_text("Line 1, column 10")
    assert page.locator(".chips").first.bounding_box() == chips
    assert page.locator("#formula [role=alert]").inner_text() == ""

    page.keyboard.press("Control+Enter")
    expect(page.locator("#formula [role=alert]")).to_contain_text("Line 1, column 10")
    expect(page.locator(".stage .alert")).to_be_hidden()
    assert state(page) == "error"
    assert not any(browser.busy for browser in server.browsers)
    page.locator("[data-name=politeness]").focus()  # the last valid formula still follows the sliders
    page.keyboard.press("Home")
    page.wait_for_timeout(300)
    assert formula(page) == BAD
    assert positions(page) == {"politeness": -1.5}

    fill(page, "sliders")
    settled(page, "S = 1")
    expect(page.locator("#formula textarea")).not_to_have_attribute("aria-invalid", "true")
    assert positions(page) == {"politeness": -1.5}
    option(page, "tokens", "8")
    page.click("#generate")
    finish(page)


@pytest.mark.slow
def test_an_older_answer_never_overwrites_a_newer_one(visit: Visit) -> None:
    page = visit()

    page.evaluate(
        """() => {
            const real = window.fetch;
            window.fetch = async (url, options) => {
                if (String(options?.body).includes("formal")) await new Promise((done) => setTimeout(done, 600));
                return real(url, options);
            };
        }"""
    )
    fill(page, "[0.7*formal]")
    page.wait_for_timeout(250)  # the question is sent, and not answered yet
    fill(page, "2*base + ")
    page.keyboard.type("humor")
    settled(page, "S = 3")
    page.wait_for_timeout(700)
    assert formula(page) == "2*base + humor"
    settled(page, "S = 3")
    assert positions(page) == {}


@pytest.mark.slow
def test_a_formula_without_sliders_says_so_and_one_with_them_is_steered(visit: Visit) -> None:
    page = visit()
    notice = page.locator("#deck .notice")
    fill(page, "base + 2*(formal - informal)")
    expect(notice).to_have_text("The sliders do not act on this formula")
    fill(page, "1.5*sliders - 0.5*base")
    expect(notice).to_be_empty()
    option(page, "tokens", "200")
    page.click("#generate")
    wait(page, lambda: len(text(page)) > 60)
    page.locator(".fader").first.focus()
    page.keyboard.press("End")
    what = page.locator("[data-pane=mix] .what")
    expect(what).to_have_text("1.5 * sliders - 0.5 * base · formality +1.50")
    assert formula(page) == "1.5*sliders - 0.5*base"
    assert page.locator("[data-pane=mix] .cut").count() == 1
    before = text(page)

    fill(page, "base - 0.5*poetic")  # another formula waits for Generate, which begins again in mid-text
    settled(page, "when you press Generate")
    page.keyboard.press("Control+Enter")
    expect(what).to_have_text("base - 0.5 * poetic")
    wait(page, lambda: len(text(page)) > 60)
    assert not text(page).startswith(before)
    page.click("#stop")
    wait(page, lambda: state(page) == "stopped")


def test_a_preset_fills_the_page_and_runs(visit: Visit) -> None:
    page = visit()
    option(page, "tokens", "24")
    fill(page, "my + own")
    page.get_by_label("Presets").select_option(label="Detox by union")
    wait(page, lambda: positions(page) == {"politeness": -0.5})
    settled(page, "Dekoninck")
    assert page.locator(".sum sup").all_inner_texts() == ["25", "−24"]
    assert page.locator(".report .warning").count() == 1
    assert formula(page) == "sliders - 0.96*union(sliders, [rude])"
    prompt = page.locator("#prompt textarea").input_value()
    assert prompt.startswith("The driver")
    page.click("#generate")
    finish(page)
    assert text(page).startswith(prompt)
    assert len(text(page)) > len(prompt)
    assert text(page) != text(page, "base")
    page.get_by_role("button", name="Undo").click()
    wait(page, lambda: formula(page) == "my + own")


@pytest.mark.slow
def test_names_go_in_at_the_cursor(visit: Visit) -> None:
    page = visit()
    page.get_by_role("button", name="humorous", exact=True).click()
    assert formula(page) == "sliders + humorous"
    page.keyboard.press("Control+A")
    page.get_by_role("button", name="union", exact=True).click()
    page.keyboard.type(", rude")
    assert formula(page) == "union(sliders + humorous, rude)"
    page.get_by_role("toolbar").first.locator("button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert formula(page) == "union(sliders + humorous, rude + informal)"


@pytest.mark.slow
def test_what_a_ban_takes_back_disappears_from_the_page(visit: Visit) -> None:
    page = visit()
    option(page, "tokens", "16")
    option(page, "rate", "8")
    page.evaluate(
        """() => {
            const body = document.querySelector("[data-pane=mix] .body");
            window.seen = new Set();
            new MutationObserver(() => seen.add(body.textContent)).observe(
                body, {characterData: true, childList: true, subtree: true});
        }"""
    )
    fill(page, "sliders")
    page.click("#generate")
    finish(page)
    prompt = page.locator("#prompt textarea").input_value()
    word = next(word for word in text(page)[len(prompt) :].split()[:-1] if len(word) > 2 and word.isalpha())
    page.evaluate("seen.clear()")
    fill(page, f'sliders + ban("{word}")')
    page.click("#generate")
    wait(page, lambda: state(page) == "running")
    finish(page)
    seen = page.evaluate("[...seen]")
    assert any(f" {word}" in text for text in seen)
    assert f" {word} " not in text(page)
    assert any(not text(page).startswith(one) for one in seen)
