"""The comparison of the two texts in a real browser: sides, blind test, words that differ, header."""

from __future__ import annotations

import random
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from mixer.resources import WEB
from tests.browser.conftest import Visit
from tests.browser.test_formula import fill
from tests.browser.test_page import finish, generate, stop, text, wait
from tests.browser.test_rewards import press, slider, what

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

SHORT = "?v=1&p=The+door+was&humor=1&n=24&rate=0"


def tool(page: Page, name: str) -> Locator:
    return page.locator(".twin").get_by_role("button", name=name)


def sides(page: Page) -> list[str]:
    """The names of the first and the second pane, in the document's order."""
    return page.evaluate("[...document.querySelectorAll('.pane')].map((pane) => pane.dataset.pane)")


def write(page: Page) -> None:
    page.click("#generate")
    wait(page, lambda: len(text(page)) > 20)
    finish(page)


def marks(page: Page) -> dict[str, Any]:
    """The words of both texts, and which of them are marked as different."""
    return page.evaluate(
        """() => Object.fromEntries(["base", "mix"].map((key) => {
            const body = document.querySelector(`[data-pane=${key}] .body`);
            const nodes = [...body.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
            const at = (node, offset) => nodes.slice(0, nodes.indexOf(node)).reduce((n, one) => n + one.length, offset);
            const marked = new Set([...(CSS.highlights.get("difference") || [])]
                .filter((range) => body.contains(range.startContainer))
                .map((range) => at(range.startContainer, range.startOffset)));
            const words = [...new Intl.Segmenter(undefined, {granularity: "word"})
                .segment(nodes.map((node) => node.data).join(""))].filter((part) => part.isWordLike);
            return [key, words.map(({segment, index}) => [segment, marked.has(index)])];
        }))"""
    )


def common(a: list[str], b: list[str]) -> int:
    """The length of a longest common subsequence."""
    row = [0] * (len(b) + 1)
    for one in a:
        former = row[:]
        for j, other in enumerate(b, 1):
            row[j] = former[j - 1] + 1 if one == other else max(row[j - 1], former[j])
    return row[-1]


@pytest.mark.slow
def test_the_header_says_what_the_deck_would_write_by_and_then_what_wrote(first_visit: Visit) -> None:
    page = first_visit()
    expect(what(page)).to_have_text("poetry +1.00")
    press(page, page.locator("[data-name=humor]"), "Home")
    expect(what(page)).to_have_text("humor −1.50 · poetry +1.00")
    press(page, slider(page, "sentiment"), "End")
    fill(page, "2*sliders - base")
    expect(what(page)).to_have_text("2 * sliders - base · humor −1.50 · poetry +1.00 · reward sentiment +1.00")
    page.get_by_role("button", name="Reset all").click()
    fill(page, "sliders")
    expect(what(page)).to_have_text("base")
    page.evaluate(
        """() => {
            window.said = new Set();
            const header = document.querySelector("[data-pane=mix] .what");
            new MutationObserver(() => said.add(header.textContent)).observe(header, {childList: true});
        }"""
    )
    press(page, page.locator("[data-name=humor]"), "End")
    generate(page)
    stop(page)
    press(page, page.locator("[data-name=humor]"), "Home")
    page.wait_for_timeout(200)
    expect(what(page)).to_have_text("humor +1.50")  # the text on the stage was written by this
    assert page.evaluate("[...said]") == ["humor +1.50"]


def test_a_link_is_told_in_the_header_before_anything_is_written(visit: Visit) -> None:
    expect(what(visit(query="?v=1&p=x&humor=0.35&aim.toxicity=0.1"))).to_have_text("humor +0.35 · toxicity to 0.10")


def test_swapped_sides_stay_so_and_keep_their_texts(visit: Visit) -> None:
    page = visit(query=SHORT)
    assert sides(page) == ["base", "mix"]
    write(page)
    texts = text(page), text(page, "base")
    tool(page, "Swap").click()
    assert sides(page) == ["mix", "base"]
    assert (text(page), text(page, "base")) == texts
    page.reload()
    page.wait_for_selector("html[data-opened] .fader")
    assert sides(page) == ["mix", "base"]
    expect(tool(page, "Swap")).to_have_attribute("aria-pressed", "true")
    tool(page, "Swap").click()
    assert sides(page) == ["base", "mix"]


def test_blind_hides_all_that_tells_the_texts_apart_and_counts_the_answers(visit: Visit) -> None:
    page = visit()
    tool(page, "Blind").click()
    generate(page)
    press(page, page.locator("[data-name=humor]"), "End")
    wait(page, lambda: page.locator(".pane .cut").count() > 0)
    wait(page, lambda: not text(page).startswith(text(page, "base")) and not text(page, "base").startswith(text(page)))
    stop(page)
    stage = page.locator("#stage")
    expect(stage.locator("h2")).to_have_text(["A", "B"])
    heard = stage.aria_snapshot().replace("Which one is the mix?", "").lower()
    assert 'region "a text"' in heard and 'region "b text"' in heard
    assert not [word for word in ("base", "mix", "humor", "from here", "rest") if word in heard]
    looks = page.evaluate(
        """() => [...document.querySelectorAll(".pane")].map((pane) => {
            const {borderTopColor, order} = getComputedStyle(pane);
            const {content, backgroundColor} = getComputedStyle(pane.querySelector(".body"), "::after");
            const header = pane.querySelector("header").getBoundingClientRect();
            return JSON.stringify([borderTopColor, order, content, backgroundColor, header.width, header.height]);
        })"""
    )
    assert len(looks) == 2 and looks[0] == looks[1]
    assert page.locator(".pane .cut:visible, .pane .what:visible").count() == 0
    expect(tool(page, "Swap")).to_be_disabled()

    side = sides(page).index("mix")
    page.locator(".quiz button").nth(side).click()
    expect(page.locator(".verdict")).to_have_text("Yes, that is the mix. 1 of 1 right")
    expect(stage.locator("h2")).to_have_text([one.title() for one in sides(page)])
    expect(page.locator(".quiz")).to_be_hidden()
    assert page.evaluate("document.activeElement.textContent") == "Blind"
    assert page.locator(".pane .cut:visible").count() > 0

    page.click("#generate")
    wait(page, lambda: page.locator(".quiz").is_visible())
    expect(stage.locator("h2")).to_have_text(["A", "B"])
    wait(page, lambda: text(page) != text(page, "base"))
    stop(page)
    page.locator(".quiz button").nth(sides(page).index("base")).click()
    expect(page.locator(".verdict")).to_have_text("No, that is the base. 1 of 2 right")
    tool(page, "Blind").click()
    assert sides(page) == ["base", "mix"]
    expect(stage.locator("h2")).to_have_text(["Base", "Mix"])


@pytest.mark.slow
def test_blind_draws_the_sides_and_asks_nothing_of_equal_texts(visit: Visit) -> None:
    page = visit(query="?v=1&p=The+door+was&n=8&rate=0")
    seen = set()
    for _ in range(40):
        tool(page, "Blind").click()
        seen.add(tuple(sides(page)))
        tool(page, "Blind").click()
    assert seen == {("base", "mix"), ("mix", "base")}
    tool(page, "Blind").click()
    write(page)
    page.locator(".quiz button").first.click()
    expect(page.locator(".verdict")).to_have_text("Both texts are the same so far.")
    expect(page.locator(".quiz")).to_be_visible()


def test_words_that_differ_are_marked_and_the_rest_is_the_same(visit: Visit) -> None:
    page = visit(query=SHORT)
    tool(page, "Differences").click()
    write(page)
    found = marks(page)
    kept = {key: [word for word, marked in words if not marked] for key, words in found.items()}
    plain = {key: [word for word, _ in words] for key, words in found.items()}
    assert kept["base"] == kept["mix"]
    assert len(kept["mix"]) == common(plain["base"], plain["mix"]) < len(plain["mix"])
    total = sum(map(len, plain.values()))
    expect(page.locator(".tally")).to_have_text(f"{total - 2 * len(kept['mix'])} of {total} words differ")
    tool(page, "Swap").click()
    assert marks(page) == found
    tool(page, "Differences").click()
    assert not any(marked for words in marks(page).values() for _, marked in words)
    expect(page.locator(".tally")).to_have_text("")


@pytest.mark.slow
def test_marks_follow_a_growing_text_and_a_selection_survives(visit: Visit) -> None:
    page = visit()
    page.evaluate("localStorage.setItem('mixing-desk.twin', '{\"differences\": true}')")
    page.reload()
    page.wait_for_selector("html[data-opened] .fader")
    generate(page)
    press(page, page.locator("[data-name=humor]"), "End")
    wait(page, lambda: any(marked for _, marked in marks(page)["mix"]))
    chosen = page.evaluate(
        """() => {
            getSelection().selectAllChildren(document.querySelector("[data-pane=mix] .body"));
            const node = getSelection().anchorNode.lastChild;
            getSelection().setBaseAndExtent(node, 0, node, Math.min(6, node.length));
            return String(getSelection());
        }"""
    )
    former = sum(marked for _, marked in marks(page)["mix"])
    wait(page, lambda: sum(marked for _, marked in marks(page)["mix"]) > former + 3)
    assert chosen and page.evaluate("String(getSelection())") == chosen
    stop(page)


@pytest.mark.slow
def test_the_longest_texts_are_compared_in_a_blink(visit: Visit) -> None:
    page = visit()
    page.add_script_tag(content=(WEB / "twin.js").read_text(encoding="utf-8"))
    draw = random.Random(3)
    pairs = [[[draw.choice("abcd") for _ in range(draw.randrange(12))] for _ in range(2)] for _ in range(200)]
    compare = (
        "(pairs) => pairs.map(([a, b]) => different(...[a, b].map((x) => x.map((segment) => ({segment})))).length)"
    )
    assert page.evaluate(compare, pairs) == [len(a) + len(b) - 2 * common(a, b) for a, b in pairs]
    longest = [[[str(draw.randrange(300)) for _ in range(1000)] for _ in range(2)]]
    took = page.evaluate(
        f"(pairs) => {{ const from = performance.now(); ({compare})(pairs); return performance.now() - from; }}",
        longest,
    )
    assert took < 300  # ms


@pytest.mark.slow
def test_a_phone_shows_one_text_and_blind_calls_them_a_and_b(visit: Visit) -> None:
    page = visit(390, 844, touch=True, query=SHORT)
    write(page)
    shown = page.locator(".pane:visible")
    expect(shown).to_have_attribute("data-pane", "mix")
    page.locator(".switch").get_by_role("button", name="Base").tap()
    expect(shown).to_have_attribute("data-pane", "base")
    tool(page, "Blind").tap()
    switch = page.locator(".switch button")
    expect(switch).to_have_text(["A", "B"])
    for side in (1, 0):
        switch.nth(side).tap()
        expect(shown).to_have_attribute("data-pane", sides(page)[side])
        expect(switch.nth(side)).to_have_attribute("aria-pressed", "true")
    page.locator(".quiz button").nth(sides(page).index("mix")).tap()
    expect(page.locator(".verdict")).to_contain_text("1 of 1 right")
    expect(switch).to_have_text([one.title() for one in sides(page)])
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_with_all_tools_on(visit: Visit, dark: bool) -> None:
    page = visit(dark=dark, query=SHORT)
    tool(page, "Differences").click()
    tool(page, "Blind").click()
    write(page)
    found = Axe().run(page).response["violations"]
    assert [v["id"] + ": " + v["nodes"][0]["html"] for v in found if v["impact"] in ("serious", "critical")] == []
