"""What a person does on the page, in a real browser against a real server."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Server, Visit

# Gradio's own code warns. In a server's thread a warning that is an error would end a request.
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]


def text(page: Page, pane: str = "mix") -> str:
    return page.locator(f"[data-pane={pane}] .body").inner_text()


def state(page: Page) -> str | None:
    return page.evaluate("document.documentElement.dataset.desk")


def wait(page: Page, condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        page.wait_for_timeout(50)


def option(page: Page, box: str, value: str) -> None:
    """Opens the options, types a value as soon as the box keeps it, and closes them."""
    page.get_by_role("button", name="Options").click()
    field = page.locator(f"#{box} input[type=number]")

    def kept() -> bool:
        field.fill(value)
        page.wait_for_timeout(150)
        return field.input_value() == value

    wait(page, kept)
    page.get_by_role("button", name="Options").click()


def generate(page: Page, tokens: int = 400) -> None:
    """Sets the length, presses Generate and waits for text in both panes."""
    option(page, "tokens", str(tokens))
    page.click("#generate")
    prompt = page.locator("#prompt textarea").input_value()
    wait(page, lambda: len(text(page)) > len(prompt) and len(text(page, "base")) > len(prompt))


def grow(page: Page) -> None:
    """Waits for more text."""
    former = len(text(page))
    wait(page, lambda: len(text(page)) > former)


def stop(page: Page) -> None:
    page.click("#stop")
    wait(page, lambda: state(page) == "stopped", 5)


def finish(page: Page) -> None:
    wait(page, lambda: state(page) == "done", 30)


def test_one_click_streams_text_that_grows_and_is_measured(visit: Visit) -> None:
    page = visit()
    page.click("#generate")
    lengths: list[int] = []
    while state(page) != "done" and len(lengths) < 300:
        lengths.append(len(text(page)))
        page.wait_for_timeout(100)
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 3
    assert text(page) == text(page, "base")  # every slider at rest
    line = page.locator(".status-line").inner_text()
    assert all(word in line for word in ("first token", "tok/s", "exact", "seed 7"))


def test_dragging_in_mid_stream_steers_without_a_restart(visit: Visit) -> None:
    page = visit()
    generate(page)
    before = text(page)
    fader = page.locator(".fader").first
    box = fader.bounding_box()
    assert box is not None
    middle = box["y"] + 13
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, middle, steps=12)
    page.mouse.up()
    value = float(fader.input_value())
    assert value > 0.9
    name = fader.get_attribute("data-name")
    # The header of the pane names the mix under which the newest token was written.
    expect(page.locator("[data-pane=mix] .what")).to_have_text(f"{name} +{value:.2f}")
    assert page.locator("[data-pane=mix] .cut").count() >= 1
    grow(page)
    stop(page)
    assert text(page).startswith(before)
    assert text(page) != text(page, "base")


def test_the_keyboard_steers_and_keeps_its_focus(visit: Visit) -> None:
    page = visit()
    generate(page)
    before = text(page)
    fader = page.locator(".fader").nth(1)
    fader.focus()
    for _ in range(7):
        page.keyboard.press("ArrowLeft")
    name = fader.get_attribute("data-name")
    expect(page.locator("[data-pane=mix] .what")).to_have_text(f"{name} −0.35")
    assert fader.input_value() == "-0.35"
    assert "−0.35" in (fader.get_attribute("aria-valuetext") or "")
    assert page.evaluate("document.activeElement.dataset.name") == name
    grow(page)
    stop(page)
    assert text(page).startswith(before)


def test_double_click_and_reset_all_bring_sliders_to_rest(visit: Visit) -> None:
    page = visit()
    faders = page.locator(".fader")
    for index in (0, 1):
        faders.nth(index).focus()
        page.keyboard.press("End")
        assert faders.nth(index).input_value() == "1.5"
    faders.nth(0).dblclick()
    assert [faders.nth(index).input_value() for index in (0, 1)] == ["0", "1.5"]
    page.get_by_role("button", name="Reset all").click()
    assert {fader.input_value() for fader in faders.all()} == {"0"}
    expect(page.get_by_role("button", name="Reset all")).to_be_disabled()
    generate(page, tokens=16)
    finish(page)
    assert text(page) == text(page, "base")


def test_generate_in_mid_text_begins_again_and_a_double_click_begins_once(visit: Visit) -> None:
    page = visit()
    page.evaluate(
        """() => {
            window.begun = 0;
            document.addEventListener("desk:frame", ({detail}) => {
                begun += detail.state === "running" && !detail.status.tokens && !detail.mix.length;
            });
        }"""
    )
    generate(page)
    assert page.evaluate("begun") == 1
    page.locator("#prompt textarea").fill("My dear")
    page.click("#generate")
    wait(page, lambda: text(page).startswith("My dear") and len(text(page)) > 20)
    assert page.evaluate("begun") == 2
    stop(page)
    option(page, "tokens", "8")
    page.wait_for_timeout(600)
    page.dblclick("#generate")
    finish(page)
    page.wait_for_timeout(700)
    assert state(page) == "done"
    assert page.evaluate("begun") == 3


def test_stop_ends_the_writing_and_frees_the_rows(visit: Visit, server: Server) -> None:
    page = visit()
    generate(page)
    assert any(browser.busy for browser in server.browsers)
    stop(page)
    kept = text(page)
    page.wait_for_timeout(500)
    assert text(page) == kept
    assert not any(browser.busy for browser in server.browsers)


def test_closing_the_tab_frees_the_rows(visit: Visit, server: Server) -> None:
    page = visit()
    generate(page)
    assert any(browser.busy for browser in server.browsers)
    page.close()
    end = time.monotonic() + 10
    while any(browser.busy for browser in server.browsers):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_tabs_never_share_a_mix(visit: Visit) -> None:
    first, second = visit(), visit()
    generate(first)
    generate(second)
    fader = first.locator(".fader").first
    fader.focus()
    first.keyboard.press("End")
    name = fader.get_attribute("data-name")
    expect(first.locator("[data-pane=mix] .what")).to_have_text(f"{name} +1.50")
    grow(second)
    stop(second)
    stop(first)
    assert second.locator("[data-pane=mix] .what").inner_text() == "base"
    assert second.locator(".fader").first.input_value() == "0"
    assert text(second) == text(second, "base")


@pytest.mark.parametrize("prompt", ["", "word " * 20_000], ids=["empty", "100,000 characters"])
def test_a_bad_prompt_is_answered_on_the_page_and_nothing_is_lost(visit: Visit, prompt: str) -> None:
    page = visit()
    page.locator(".fader").first.focus()
    page.keyboard.press("ArrowRight")
    generate(page, tokens=16)
    finish(page)
    kept = text(page)
    page.locator("#prompt textarea").fill(prompt)
    page.click("#generate")
    expect(page.locator(".stage .alert")).to_be_visible()
    assert "prompt" in page.locator(".stage .alert").inner_text()
    assert "Traceback" not in page.locator(".stage .alert").inner_text()
    assert text(page) == kept
    assert page.locator(".fader").first.input_value() == "0.05"
    page.locator("#prompt textarea").fill("The door was")
    page.click("#generate")
    expect(page.locator(".stage .alert")).to_be_hidden()
    finish(page)
    assert text(page).startswith("The door was")


@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["light", "dark"])
def test_axe_finds_nothing_serious_and_every_control_can_be_hit(visit: Visit, dark: bool) -> None:
    page = visit(dark=dark)
    generate(page, tokens=16)
    finish(page)
    page.get_by_role("button", name="Options").click()
    page.wait_for_timeout(300)
    found = Axe().run(page).response["violations"]
    assert [v["id"] + ": " + v["nodes"][0]["html"] for v in found if v["impact"] in ("serious", "critical")] == []
    covered = page.evaluate(
        """() => [...document.querySelectorAll("#desk :is(button, .fader)")].filter((node) => {
            node.scrollIntoView({block: "nearest", inline: "nearest"});
            const box = node.getBoundingClientRect();
            if (!box.width) return false;
            const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            return !(node.contains(hit) || hit?.contains(node));
        }).map((node) => node.outerHTML.slice(0, 120))"""
    )
    assert covered == []


def test_the_desktop_page_does_not_scroll(visit: Visit) -> None:
    page = visit()
    assert page.evaluate("[document.documentElement.scrollHeight, document.documentElement.scrollWidth]") == [800, 1280]


def test_a_phone_shows_the_text_and_the_deck_together(visit: Visit) -> None:
    page = visit(390, 844, touch=True)
    option(page, "tokens", "16")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.tap("#generate")
    finish(page)
    shown = len(text(page))
    assert shown > 0
    page.locator(".fader").last.scroll_into_view_if_needed()
    expect(page.locator("[data-pane=mix]")).to_be_in_viewport()
    assert page.locator("[data-pane=base]").is_hidden()
    page.get_by_role("button", name="Base", exact=True).tap()
    assert page.locator("[data-pane=base]").is_visible()
    assert page.locator("[data-pane=mix]").is_hidden()


@pytest.mark.slow
@pytest.mark.parametrize(("box", "value"), [("temperature", "99"), ("tokens", "0"), ("seed", "-2")])
def test_an_option_out_of_range_is_answered_on_the_page(visit: Visit, box: str, value: str) -> None:
    page = visit()
    option(page, box, value)
    page.click("#generate")
    expect(page.locator(".stage .alert")).to_contain_text("out of range")
    assert page.locator(".toast-body").count() == 0
