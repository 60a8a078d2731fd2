"""The page's state in a real browser: links, undo and redo, presets, code, history."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from mixer import Desk
from mixer.ui.state.link import read_query
from mixer.ui.state.page_state import PageState
from tests.browser.conftest import Visit
from tests.browser.test_formula import fill, formula, positions
from tests.browser.test_page import finish, generate, grow, option, state, stop, text, wait
from tests.browser.test_rewards import aim, press, slider, what

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

FULL = (
    "?v=1&p=%3Cb%3EDear%3C%2Fb%3E+neighbour%2C&formality=-0.6&poetry=0.35&r.sentiment=0.8&aim.toxicity=0.1&budget=0.5"
    "&whole=1&f=1.5*sliders+-+0.5*base&mode=refill&t=0.9&n=24&seed=3&rate=0"
)


def prompt(page: Page) -> str:
    return page.locator("#prompt textarea").input_value()


def share(page: Page) -> dict[str, str]:
    """Opens the sheet Share, closes it again, and returns its fields."""
    page.get_by_role("button", name="Share").click()
    page.wait_for_selector("#share-sheet:popover-open textarea")
    fields = page.locator("#share-sheet textarea").all()
    found = {str(field.get_attribute("aria-label")): field.input_value() for field in fields}
    page.keyboard.press("Escape")
    expect(page.locator("#share-sheet")).to_be_hidden()
    return found


def shared(page: Page, desk: Desk) -> PageState:
    answer = read_query(share(page)["Link"].partition("?")[2], desk.attributes, desk.rewards)
    assert answer is not None and answer[1] == []
    return answer[0]


def undo(page: Page) -> None:
    page.get_by_role("button", name="Undo").click()


def drag(page: Page, name: str, to: float) -> None:
    fader = page.locator(f"[data-name={name}]")
    box = fader.bounding_box()
    assert box is not None
    start = float(fader.input_value())
    at = [box["x"] + 6 + (box["width"] - 12) * (x + 1.5) / 3 for x in (start, to)]
    page.mouse.move(at[0], box["y"] + 13)
    page.mouse.down()
    page.mouse.move((at[0] + at[1]) / 2, box["y"] + 13, steps=4)
    page.wait_for_timeout(600)  # a person may pause in the middle of one drag
    page.mouse.move(at[1], box["y"] + 13, steps=8)
    page.mouse.up()


def test_a_link_puts_every_control_where_it_was_before_anything_is_written(visit: Visit, desk: Desk) -> None:
    page = visit(query=FULL)
    assert page.locator(".notice-line.warning").is_hidden()
    assert prompt(page) == "<b>Dear</b> neighbour,"
    wait(page, lambda: positions(page) == {"formality": -0.6, "poetry": 0.35})
    assert slider(page, "sentiment").input_value() == "0.8"
    expect(aim(page, "toxicity")).to_have_attribute("aria-pressed", "true")
    assert slider(page, "toxicity").input_value() == "0.1"
    expect(page.get_by_label("KL budget")).to_have_attribute("aria-valuetext", "at most 0.5 nats a token")
    expect(page.get_by_label("count the sliders too")).to_be_checked()
    assert formula(page) == "1.5*sliders - 0.5*base"
    page.get_by_role("button", name="Options").click()
    for box, value in {"temperature": "0.9", "tokens": "24", "seed": "3", "rate": "0"}.items():
        expect(page.locator(f"#{box} input[type=number]")).to_have_value(value)
    expect(page.get_by_role("radio", name="refill")).to_be_checked()
    assert state(page) in (None, "idle")
    page.get_by_role("button", name="Options").click()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    answer = read_query(FULL, desk.attributes, desk.rewards)
    assert answer is not None and shared(page, desk) == answer[0]


def test_what_a_hand_set_up_opens_elsewhere_and_writes_the_same_text(visit: Visit, desk: Desk) -> None:
    first = visit()
    option(first, "tokens", "24")
    option(first, "seed", "11")
    first.locator("#prompt textarea").fill("The door was")
    press(first, first.locator("[data-name=humor]"), "End")
    press(first, slider(first, "sentiment"), "Home")
    fill(first, "2*sliders - base")
    wait(first, lambda: "2*sliders" in share(first).get("Link", "").replace("%2A", "*"))
    link = share(first)["Link"]
    first.click("#generate")
    finish(first)
    second = visit(query="?" + link.partition("?")[2])
    second.click("#generate")
    finish(second)
    assert text(second) == text(first) and len(text(first)) > 30
    assert share(second)["Link"] == link
    assert shared(second, desk).positions == {"humor": 1.5}


def test_what_is_wrong_in_a_link_is_told_and_nothing_else_is_lost(visit: Visit) -> None:
    page = visit(query="?v=1&p=Hello&humor=9&charm=1&formality=0.5&n=%00&f=base+%2B+2*fromal&__theme=light&<img>=x")
    notes = page.locator(".notice-line.warning li")
    expect(notes).to_have_count(4)
    expect(notes.first).to_have_text(
        "humor=9 was left out of the link: The position of humor is 9, which is out of range. "
        "Give a number from -1.5 to 1.5."
    )
    expect(page.locator(".fault")).to_contain_text("Did you mean formal")
    assert positions(page) == {"formality": 0.5}
    assert prompt(page) == "Hello"
    page.get_by_role("button", name="Dismiss these notes").click()
    expect(notes.first).to_be_hidden()


def test_one_drag_is_one_step_back_and_forth_even_in_mid_text(visit: Visit) -> None:
    page = visit()
    generate(page)
    drag(page, "formality", 0.9)
    assert positions(page)["formality"] == pytest.approx(0.9, abs=0.05)
    there = positions(page)
    drag(page, "humor", -0.7)
    both = positions(page)
    page.keyboard.press("Control+Z")
    wait(page, lambda: positions(page) == there)
    expect(what(page)).to_have_text(f"formality +{there['formality']:.2f}")  # the running text follows
    page.keyboard.press("Control+Z")
    wait(page, lambda: positions(page) == {})
    page.keyboard.press("Control+Shift+Z")
    wait(page, lambda: positions(page) == there)
    page.get_by_role("button", name="Redo").click()
    wait(page, lambda: positions(page) == both)
    expect(page.get_by_role("button", name="Redo")).to_be_disabled()
    grow(page)
    stop(page)


@pytest.mark.slow
def test_undo_reaches_every_control_and_leaves_text_fields_their_own(visit: Visit, desk: Desk) -> None:
    page = visit()
    before = shared(page, desk)
    aim(page, "toxicity").click()
    option(page, "temperature", "1.5")
    fill(page, "[0.7*formal]")
    wait(page, lambda: positions(page) == {"formality": 0.7})
    page.wait_for_timeout(500)
    page.keyboard.press("Control+Z")  # in the formula box: its own
    wait(page, lambda: formula(page) != "[0.7*formal]")
    fill(page, "[0.7*formal]")
    wait(page, lambda: positions(page) == {"formality": 0.7})
    for _ in range(20):
        if page.get_by_role("button", name="Undo").is_disabled():
            break
        undo(page)
        page.wait_for_timeout(100)
    wait(page, lambda: formula(page) == "sliders" and positions(page) == {})
    page.wait_for_timeout(600)
    assert shared(page, desk) == before
    for _ in range(20):
        if page.get_by_role("button", name="Redo").is_disabled():
            break
        page.get_by_role("button", name="Redo").click()
        page.wait_for_timeout(100)
    wait(page, lambda: formula(page) == "[0.7*formal]" and positions(page) == {"formality": 0.7})
    page.wait_for_timeout(600)
    after = shared(page, desk)
    assert (after.temperature, dict(after.steering.levels)) == (1.5, {"toxicity": 0.5})


def test_the_first_visit_opens_with_a_preset_and_one_click_shows_what_it_does(first_visit: Visit) -> None:
    page = first_visit()
    chosen = page.get_by_label("Presets").locator("option:checked").inner_text()
    assert chosen != "Presets…" and positions(page)
    hint = page.locator(".notice-line.hint")
    expect(hint).to_contain_text("Press Generate, then drag a slider")
    page.click("#generate")
    finish(page)
    assert text(page).startswith(prompt(page)) and text(page) != text(page, "base")
    page.get_by_role("button", name="Dismiss this hint").click()
    expect(hint).to_be_hidden()
    page.reload()
    page.wait_for_selector("html[data-opened]")
    expect(hint).to_be_hidden()


@pytest.mark.slow
def test_the_menu_names_the_preset_until_something_moves(visit: Visit) -> None:
    page = visit()
    menu = page.get_by_label("Presets")
    page.locator("#prompt textarea").fill("Mine")
    press(page, slider(page, "humor"), "End")
    menu.select_option(label="Self-debias")
    wait(page, lambda: positions(page) == {"politeness": -0.5})
    expect(slider(page, "humor")).to_have_value("0")
    assert prompt(page).startswith("The old man")
    expect(menu.locator("option:checked")).to_have_text("Self-debias")
    press(page, page.locator("[data-name=humor]"), "End")
    expect(menu.locator("option:checked")).to_have_text("Presets…")
    undo(page)
    undo(page)
    wait(page, lambda: prompt(page) == "Mine" and formula(page) == "sliders")
    expect(slider(page, "humor")).to_have_value("1")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_copied_command_for_curl_writes_what_the_page_writes(visit: Visit) -> None:
    page = visit(query=FULL.replace("Dear", "It%27s+%22%24HOME%22"))
    command = share(page)["curl"]
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout
    page.click("#generate")
    finish(page)
    written = text(page).removeprefix(prompt(page))
    (line,) = [line for line in answer.splitlines() if line.startswith("data: [")]
    assert json.loads(line.removeprefix("data: "))[0].split() == written.split()


def test_history_brings_back_text_state_and_seed_even_after_a_reload(visit: Visit, desk: Desk) -> None:
    page = visit(query="?v=1&p=The+door+was&humor=1&n=12&seed=5&fresh=1")
    page.click("#generate")
    finish(page)
    first, base = text(page), text(page, "base")
    expect(page.locator(".status-line")).to_contain_text("seed")
    seed = int(page.locator(".status-line span").last.inner_text().removeprefix("seed "))
    page.get_by_role("button", name="Reset all").click()
    page.locator("#prompt textarea").fill("My dear")
    fill(page, "sliders + ")
    fill(page, "2*formal - base")
    page.click("#generate")
    wait(page, lambda: state(page) == "running")
    finish(page)
    page.goto(page.url.partition("?")[0])
    page.wait_for_selector("html[data-opened] .fader")
    page.get_by_role("button", name="History").click()
    rows = page.locator("#history-sheet li button")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("My dear")
    rows.last.click()
    expect(page.locator("#history-sheet")).to_be_hidden()
    assert (text(page), text(page, "base")) == (first, base)
    wait(page, lambda: positions(page) == {"humor": 1.0})
    page.wait_for_timeout(600)
    assert shared(page, desk) == PageState("The door was", positions={"humor": 1.0}, tokens=12, seed=seed)
    page.click("#generate")
    wait(page, lambda: state(page) == "running")
    finish(page)
    assert text(page) == first
    undo(page)
    wait(page, lambda: positions(page) == {})
    page.get_by_role("button", name="History").click()
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Clear").click()
    expect(rows).to_have_count(0)


def test_a_text_of_the_history_waits_for_the_running_one_to_stop(visit: Visit) -> None:
    page = visit(query="?v=1&p=The+door+was&n=8")
    page.click("#generate")
    finish(page)
    first = text(page)
    page.locator("#prompt textarea").fill("My dear")
    generate(page)
    page.get_by_role("button", name="History").click()
    page.keyboard.press("Escape")  # closes the sheet alone
    assert state(page) == "running"
    page.get_by_role("button", name="History").click()
    page.locator("#history-sheet li button").last.click()
    wait(page, lambda: text(page) == first and prompt(page) == "The door was")
    page.wait_for_timeout(1500)
    assert text(page) == first  # nothing of the stopped one comes after it


@pytest.mark.slow
@pytest.mark.parametrize(
    "kept", ["{", "[1, null, {}]", '[{"state": {"positions": 7}, "frame": {"prompt": "x", "mix": []}}]']
)
def test_a_spoiled_history_harms_nobody(visit: Visit, kept: str) -> None:
    page = visit()
    page.evaluate("kept => localStorage.setItem('mixing-desk.history', kept)", kept)
    page.reload()
    page.wait_for_selector("html[data-opened] .fader")
    page.get_by_role("button", name="History").click()
    for row in page.locator("#history-sheet li button").all():
        row.click()
    page.keyboard.press("Escape")
    option(page, "tokens", "8")
    page.click("#generate")
    finish(page)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("sheet", ["History", "Share"])
def test_axe_finds_nothing_serious_in_the_sheets(visit: Visit, dark: bool, sheet: str) -> None:
    page = visit(dark=dark, query="?v=1&p=x&humor=9&n=8")
    page.click("#generate")
    finish(page)
    page.get_by_role("button", name=sheet).click()
    page.wait_for_selector(f"#{sheet.lower()}-sheet:popover-open :is(textarea, li)")
    found = Axe().run(page).response["violations"]
    assert [v["id"] + ": " + v["nodes"][0]["html"] for v in found if v["impact"] in ("serious", "critical")] == []


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_the_head_and_its_sheets_fit_a_desktop_and_a_phone(visit: Visit, direction: str) -> None:
    for width, height in ((1280, 800), (390, 844)):
        page = visit(width, height, touch=width < 800)
        page.evaluate("direction => document.documentElement.dir = direction", direction)
        for name in ("History", "Share"):
            page.get_by_role("button", name=name).click()
            page.wait_for_selector(f"#{name.lower()}-sheet:popover-open")
            box = page.locator(f"#{name.lower()}-sheet").bounding_box()
            assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width
            assert box["y"] >= 0 and box["y"] + box["height"] <= height
            page.keyboard.press("Escape")
        sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert sizes[0] == width and (width < 800 or sizes[1] == height)
        hit = page.evaluate(
            """() => [...document.querySelectorAll(".tools > *:not(section)")].every((node) => {
                const box = node.getBoundingClientRect();
                return node.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
            })"""
        )
        assert hit
