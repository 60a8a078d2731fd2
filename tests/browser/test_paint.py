"""The paint in a real browser: when a text is painted, the readout of a token, the table, texts of the history."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from mixer import Desk, SamplingParams, Segment, Steering, effects
from tests.browser.conftest import Server, Visit
from tests.browser.test_page import finish, generate, stop, text, wait
from tests.browser.test_rewards import press

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

PROMPT = "The last train of the evening was"
QUERY = "?v=1&p=The+last+train+of+the+evening+was&formality=0.8&sentiment=-0.5&r.humor=0.8&n=40&rate=0&seed=7"
CONTRAST = """cells => {
    const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const pixel = (...colors) => {
        for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => rgb.map((x) => x / 255).map((x) => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
        .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = getComputedStyle(document.querySelector("#shelf-paint")).backgroundColor;
    return Math.min(...cells.map((cell) => {
        const { color, backgroundColor } = getComputedStyle(cell);
        const [low, high] = [light(pixel(ground, backgroundColor)), light(pixel(color))].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    }));
}"""


def tab(page: Page) -> None:
    page.get_by_role("tab", name="Paint").click()


def cells(page: Page) -> Locator:
    return page.locator(".painting .cell")


def painted(page: Page) -> None:
    expect(cells(page).first).to_be_visible(timeout=30_000)
    expect(page.locator(".paint-body")).not_to_have_class("paint-body old")


def totals(page: Page) -> dict[str, str]:
    lines = page.locator(".paint .by label").all_inner_texts()
    return {name: total for name, _, total in (line.partition("\n") for line in lines)}


def reading(page: Page) -> str:
    return page.locator(".paint .readout").inner_text()


def write(page: Page) -> None:
    page.click("#generate")
    wait(page, lambda: page.evaluate("document.documentElement.dataset.desk") == "running")
    finish(page)


def test_a_text_is_painted_when_it_has_ended_and_says_what_each_slider_did(visit: Visit, desk: Desk) -> None:
    page = visit(query=QUERY)
    tab(page)
    expect(page.locator(".paint .hint")).to_contain_text("When a text has ended")
    write(page)
    painted(page)
    assert PROMPT + "".join(cells(page).all_text_contents()).replace("↵", "") == text(page)
    params = SamplingParams(max_new_tokens=40, min_new_tokens=20, seed=7)
    mix, steering = desk.mix(formality=0.8, sentiment=-0.5), Steering({"humor": 0.8})
    output = desk.generate(PROMPT, mix, params, steering=steering)
    found = effects(desk, PROMPT, [Segment(output.token_ids, mix, steering)], params)
    expected = {"everything": found.everything, **found.attributes, "reward humor": found.rewards["humor"]}
    shown = {name: float(total.replace("−", "-")) for name, total in totals(page).items()}
    assert shown == pytest.approx({name: sum(values) for name, values in expected.items()}, abs=0.011)

    page.get_by_label("formality").and_(page.locator(".by input")).check()
    page.get_by_role("listbox", name="Tokens, painted").focus()
    for place in range(3):
        value = f"{found.attributes['formality'][place]:+.2f}".replace("-", "−")
        if abs(found.attributes["formality"][place]) >= 0.005:
            assert f" {value} nats: " in reading(page) and "formality" in reading(page)
        page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    assert page.locator(".cell.at").get_attribute("id") == f"painted-{cells(page).count() - 1}"
    first = cells(page).first
    side = "more" if found.attributes["formality"][0] > 0 else "less"
    assert side in (first.get_attribute("class") or "")
    assert first.evaluate("cell => getComputedStyle(cell).color") == page.locator(".painting").evaluate(
        "text => getComputedStyle(text).color"
    )
    first.hover()
    assert reading(page).startswith("“")


@pytest.mark.slow
def test_nothing_is_painted_until_its_tab_is_open(visit: Visit, server: Server) -> None:
    page = visit(query=QUERY)
    write(page)
    page.wait_for_timeout(800)
    assert cells(page).count() == 0
    tab(page)
    painted(page)
    before = totals(page)
    tab(page)  # closes it
    tab(page)
    assert totals(page) == before
    assert not any(browser.busy for browser in server.browsers)


@pytest.mark.slow
def test_the_table_holds_every_effect_for_readers_and_on_a_press_for_all(visit: Visit) -> None:
    page = visit(query=QUERY)
    tab(page)
    write(page)
    painted(page)
    table = page.get_by_role("table", name="Effect on each token in nats")
    assert table.get_by_role("columnheader").all_inner_texts()[:4] == [
        "Token",
        "Probability",
        "everything",
        "formality",
    ]
    assert table.locator("tbody tr").count() == cells(page).count()
    last = table.locator("tfoot tr").locator("th, td").all_inner_texts()
    assert last == ["Whole text", "", *totals(page).values()]
    button = page.get_by_role("button", name="Table")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    box = table.bounding_box()
    assert box is not None and box["width"] > 200
    expect(page.locator(".painting")).to_be_hidden()
    button.click()
    expect(page.locator(".painting")).to_be_visible()


@pytest.mark.slow
def test_a_text_that_was_turned_in_mid_sentence_is_painted_again_from_the_history(visit: Visit) -> None:
    page = visit(query=QUERY.replace("rate=0", "rate=40").replace("n=40", "n=400"))
    generate(page)
    press(page, page.locator(".fader").nth(1), *["ArrowRight"] * 12)
    page.wait_for_timeout(600)
    stop(page)
    tab(page)
    painted(page)
    first = totals(page)
    assert {"everything", "formality", "humor", "sentiment", "reward humor"} <= set(first)
    written = page.evaluate("JSON.parse(localStorage['mixing-desk.history'])[0].frame.written")
    assert len(written["parts"]) >= 2
    page.reload()
    page.wait_for_selector("html[data-opened] .fader")
    page.wait_for_timeout(500)
    page.get_by_role("button", name="History").click()
    page.locator("#history-sheet .text").first.click()
    painted(page)
    assert totals(page) == first


@pytest.mark.slow
def test_a_text_of_which_nothing_is_known_says_so(visit: Visit) -> None:
    page = visit(query=QUERY)
    tab(page)
    write(page)
    painted(page)
    page.evaluate(
        """() => {
            const kept = JSON.parse(localStorage["mixing-desk.history"]);
            delete kept[0].frame.written;
            localStorage["mixing-desk.history"] = JSON.stringify(kept);
        }"""
    )
    page.get_by_role("button", name="History").click()
    page.locator("#history-sheet .text").first.click()
    expect(page.locator(".paint .hint")).to_contain_text("not known. Press Generate")
    expect(page.locator(".paint-body")).to_be_hidden()
    write(page)
    painted(page)
    expect(page.locator(".paint .hint")).to_be_hidden()


@pytest.mark.slow
def test_a_long_painting_can_be_cancelled_and_asked_for_again(visit: Visit, server: Server) -> None:
    formula = "&f=sliders+%2B+2*judge(polite,+k=50)"
    page = visit(query=QUERY.replace("n=40", "n=120") + formula)
    tab(page)
    write(page)
    page.get_by_role("button", name="Cancel").click()
    again = page.get_by_role("button", name="Paint", exact=True)
    expect(again).to_be_visible()
    assert cells(page).count() == 0
    again.click()
    painted(page)
    expect(again).to_be_hidden()


@pytest.mark.slow
def test_the_blind_test_is_not_given_away(visit: Visit) -> None:
    page = visit(query=QUERY)
    tab(page)
    page.get_by_role("button", name="Blind").click()
    write(page)
    expect(page.locator(".paint .veil")).to_be_visible()
    expect(page.locator(".painting")).to_be_hidden()
    page.locator(".twin .quiz button").first.click()
    painted(page)
    expect(page.locator(".paint .veil")).to_be_hidden()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_letters_stay_readable_on_every_color(visit: Visit, dark: bool) -> None:
    page = visit(dark=dark, query=QUERY)
    tab(page)
    write(page)
    painted(page)
    for side in ("more", "less"):
        page.evaluate(
            """side => document.querySelectorAll(".painting .cell, .effects td").forEach((cell) => {
                cell.classList.remove("more", "less");
                cell.classList.add(side);
                cell.style.setProperty("--strength", 1);
            })""",
            side,
        )
        assert page.locator(".painting .cell").evaluate_all(CONTRAST) >= 4.5
    assert page.evaluate("document.documentElement.scrollHeight") <= 800
    for shown in (False, True):
        if shown:
            page.get_by_role("button", name="Table").click()
        found = Axe().run(page, ".paint").response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


@pytest.mark.slow
def test_on_a_phone_a_tap_reads_a_token(visit: Visit) -> None:
    page = visit(390, 844, touch=True, query=QUERY)
    page.get_by_role("tab", name="Paint").tap()
    page.locator("#generate").tap()
    finish(page)
    painted(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cell = cells(page).nth(4)
    cell.evaluate("cell => cell.scrollIntoView({block: 'center'})")
    box = cell.bounding_box()
    assert box is not None
    cell.dispatch_event("click")
    assert reading(page)
