"""The sweep in a real browser: seven cards, the curve, the table and the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from mixer.files.csv_table import Table, read_table
from tests.browser.conftest import Visit
from tests.browser.test_formula import fill, formula, positions
from tests.browser.test_page import finish, generate, state, stop, text, wait
from tests.browser.test_rewards import slider, what

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]


def opened(page: Page) -> Locator:
    page.get_by_role("tab", name="Sweep").click()
    panel = page.locator(".sweep")
    panel.scroll_into_view_if_needed()
    return panel


def sweep(panel: Locator, tokens: int = 24) -> list[Locator]:
    """Runs a sweep to its end, and returns its cards."""
    panel.get_by_label("Tokens").fill(str(tokens))
    panel.get_by_role("button", name="Run").click()
    expect(panel.locator(".said")).to_have_text("Finished", timeout=30_000)
    cards = panel.locator(".card")
    expect(cards).to_have_count(7)
    return cards.all()


def download(page: Page, button: Locator, folder: Path) -> str:
    with page.expect_download() as found:
        button.click()
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    return path.read_bytes().decode()


def table(text: str) -> Table:
    return read_table(text, "text")


def test_seven_cards_a_curve_a_table_and_a_file_say_the_same(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    panel = opened(page)
    expect(panel.get_by_role("button", name="CSV")).to_be_disabled()
    panel.get_by_label("Slider").select_option(label="formality")
    cards = sweep(panel)
    found = table(download(page, panel.get_by_role("button", name="CSV"), tmp_path))
    assert found.columns == ("attribute", "asked", "measured", "text") and len(found.rows) == 7
    assert [float(row[1]) for row in found.rows] == [-1.5, -1, -0.5, 0, 0.5, 1, 1.5]
    for card, (name, asked, measured, written) in zip(cards, found.rows, strict=True):
        assert name == "formality"
        assert card.locator(".text").text_content() == written.lstrip()
        shown = [card.locator(f".{part}").inner_text().replace("−", "-") for part in ("asked", "value")]
        assert [float(one) for one in shown] == pytest.approx([float(asked), float(measured)], abs=0.006)
    points = panel.locator(".curve circle")
    expect(points).to_have_count(7)
    heights = [float(str(point.get_attribute("cy"))) for point in points.all()]
    assert heights == pytest.approx([72 - 64 * float(row[2]) for row in found.rows], abs=0.1)
    expect(panel.get_by_role("img")).to_have_accessible_name(f"Asked and measured: formality. {curve(found)}")
    panel.get_by_role("button", name="Table").click()
    rows = panel.get_by_role("table").get_by_role("row")
    expect(rows).to_have_count(8)
    expect(panel.locator(".cards")).to_be_hidden()
    expect(rows.nth(1)).to_contain_text(found.rows[0][3].strip()[:20])
    panel.get_by_role("button", name="Table").click()
    expect(panel.locator(".cards")).to_be_visible()


def curve(found: Table) -> str:
    def signed(number: str) -> str:
        value = round(float(number), 2)
        return "0.00" if not value else f"{'−' if value < 0 else '+'}{abs(value):.2f}"

    return "; ".join(f"{signed(row[1])}: {signed(row[2])}" for row in found.rows)


def test_a_card_puts_the_slider_there_and_generate_writes_its_text(visit: Visit) -> None:
    page = visit(query="?v=1&p=The+door+was&poetry=0.5&seed=4&rate=0")
    panel = opened(page)
    panel.get_by_label("Slider").select_option(label="humor")
    cards = sweep(panel)
    expect(cards[3]).to_have_attribute("aria-current", "true")
    written = cards[5].locator(".text").text_content()
    cards[5].click()
    wait(page, lambda: positions(page) == {"humor": 1.0, "poetry": 0.5})
    expect(cards[5]).to_have_attribute("aria-current", "true")
    expect(cards[3]).not_to_have_attribute("aria-current", "true")
    shown, base = text(page), text(page, "base")
    assert written and shown.startswith("The door was") and shown.endswith(written) and base != shown
    expect(what(page)).to_have_text("humor +1.00 · poetry +0.50")
    page.click("#generate")
    finish(page)
    assert (text(page), text(page, "base")) == (shown, base)
    page.get_by_role("button", name="Undo").click()
    wait(page, lambda: positions(page) == {"poetry": 0.5})


@pytest.mark.slow
def test_a_weight_mix_goes_along_and_a_reward_can_be_swept(visit: Visit) -> None:
    page = visit(query="?v=1&p=The+door+was&rate=0")
    panel = opened(page)
    fill(page, "[0.4*formal]")
    wait(page, lambda: positions(page) == {"formality": 0.4})
    panel.get_by_label("Slider").select_option(label="formality")
    sweep(panel)[0].click()
    wait(page, lambda: formula(page) == "[1.50*informal]" and positions(page) == {"formality": -1.5})
    panel.get_by_label("Slider").select_option(label="reward sentiment")
    assert panel.get_by_label("to", exact=True).input_value() == "1"
    sweep(panel)[-1].click()
    wait(page, lambda: slider(page, "sentiment").input_value() == "1")
    expect(panel.locator(".card").last).to_have_attribute("aria-current", "true")


@pytest.mark.slow
def test_what_cannot_be_swept_is_said_in_a_sentence(visit: Visit) -> None:
    page = visit()
    panel = opened(page)
    fill(page, "2*base - [polite]")
    panel.get_by_role("button", name="Run").click()
    expect(panel.get_by_role("alert")).to_contain_text("The formula does not follow the sliders")
    fill(page, "sliders")
    panel.get_by_label("from", exact=True).fill("")
    panel.get_by_role("button", name="Run").click()
    expect(panel.get_by_role("alert")).to_contain_text("The low end must be a number")
    panel.get_by_label("from", exact=True).fill("-1")
    sweep(panel)
    expect(panel.get_by_role("alert")).to_be_hidden()


def test_a_sweep_is_canceled_and_another_one_begun(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    panel = opened(page)
    panel.get_by_label("Tokens").fill("200")
    panel.get_by_role("button", name="Run").click()
    wait(page, lambda: bool(panel.locator(".card .text").first.text_content()))
    panel.get_by_role("button", name="Cancel").click()
    expect(panel.locator(".said")).to_have_text("Stopped")
    assert panel.locator(".card:disabled").count() > 0  # a text that had ended by itself may be taken
    sweep(panel)
    assert len(table(download(page, panel.get_by_role("button", name="CSV"), tmp_path)).rows) == 7


@pytest.mark.slow
def test_a_card_pressed_in_mid_text_steers_that_text(visit: Visit) -> None:
    page = visit()
    panel = opened(page)
    panel.get_by_label("Slider").select_option(label="poetry")
    cards = sweep(panel)
    generate(page)
    former = text(page)
    cards[-1].click()
    expect(what(page)).to_have_text("poetry +1.50")
    assert text(page).startswith(former) and state(page) == "running"
    stop(page)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["desktop", "dark", "phone"])
def test_the_panel_fits_and_has_no_barriers(visit: Visit, shape: str) -> None:
    page = visit(390, 844, touch=True) if shape == "phone" else visit(dark=shape == "dark")
    panel = opened(page)
    sweep(panel)
    width, height = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert width <= (390 if shape == "phone" else 1280)
    if shape != "phone":
        assert height <= 800
        last = panel.locator(".cards li").first.bounding_box()
        bar = page.locator("#transport").bounding_box()
        assert last and bar and last["y"] + last["height"] <= bar["y"]
    for as_table in (False, True):
        if as_table:
            panel.get_by_role("button", name="Table").click()
        found = Axe().run(page, context="#shelf").response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
