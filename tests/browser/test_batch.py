"""The batch in a real browser: from the choice of a file to the saved answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from mixer import Desk, SamplingParams
from mixer.files.csv_table import Table, read_table
from tests.browser.conftest import Server, Visit
from tests.browser.test_page import wait
from tests.browser.test_sweep import download

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

FILE = "id,prompt,humor,tokens,seed\n1,=The door,0.8,12,3\n2,Dear,9,,\n3,,,12,\n"


def opened(page: Page) -> Locator:
    page.get_by_role("tab", name="Batch").click()
    panel = page.locator(".batch")
    panel.scroll_into_view_if_needed()
    return panel


def choose(panel: Locator, text: str | bytes, name: str = "asked.csv") -> None:
    data = text.encode() if isinstance(text, str) else text
    panel.locator("input[type=file]").set_input_files({"name": name, "mimeType": "text/csv", "buffer": data})
    expect(panel.locator(".file")).to_have_text(name)


def button(panel: Locator, name: str) -> Locator:
    return panel.get_by_role("button", name=name)


def run(panel: Locator) -> None:
    button(panel, "Run").click()
    expect(panel.get_by_role("status")).to_have_text("Finished", timeout=60_000)


def answer(page: Page, panel: Locator, folder: Path) -> Table:
    return read_table(download(page, button(panel, "Download"), folder), "prompt")


def test_a_file_goes_in_and_its_rows_come_back_with_texts(visit: Visit, desk: Desk, tmp_path: Path) -> None:
    page = visit(query="?v=1&p=Once&poetry=0.5&seed=5")
    panel = opened(page)
    for name in ("Run", "Cancel", "Download"):
        expect(button(panel, name)).to_be_disabled()
    choose(panel, FILE)
    run(panel)
    expect(panel.get_by_role("progressbar", name="3 of 3")).to_have_attribute("value", "1")
    expect(panel.locator(".faults")).to_have_text("1 wrong")
    expect(panel.locator(".notes")).to_have_text("Carried along as they are: id.")
    expect(panel.locator(".last tbody tr")).to_have_count(3)
    expect(panel.locator(".last .wrong")).to_contain_text("Row 3, column humor: The position is 9")
    found = answer(page, panel, tmp_path)
    assert found.columns[:5] == ("id", "prompt", "humor", "tokens", "text")
    place = found.columns.index("text")
    asked = [("=The door", {"humor": 0.8, "poetry": 0.5}, 3), ("Once", {"poetry": 0.5}, 5)]
    for row, (prompt, positions, seed) in zip([found.rows[0], found.rows[2]], asked, strict=True):
        params = SamplingParams(max_new_tokens=12, min_new_tokens=6, seed=seed)
        assert row[place] == desk.generate(prompt, desk.mix(positions), params).text
        assert row[-3:] == (str(seed), "length", "") and 0 <= float(row[place + 1]) <= 1
    assert found.rows[1][0] == "2" and found.rows[1][-1].startswith("Row 3, column humor")


def test_a_batch_shows_how_far_it_is_and_keeps_what_is_finished(visit: Visit, server: Server, tmp_path: Path) -> None:
    page = visit()
    panel = opened(page)
    choose(panel, "prompt,tokens\n" + "A door,4\n" * 16 + "A window,900\n" * 40)
    button(panel, "Run").click()
    progress = panel.locator("progress")
    wait(page, lambda: (panel.locator(".course label").text_content() or "").startswith("16 of 56"))
    first = float(str(progress.get_attribute("value")))
    wait(page, lambda: float(str(progress.get_attribute("value"))) > first)
    expect(button(panel, "Run")).to_be_disabled()
    button(panel, "Cancel").click()
    expect(panel.get_by_role("status")).to_have_text("Stopped")
    found = answer(page, panel, tmp_path)
    assert len(found.rows) == 16 and all(row[0] == "A door" and row[2] for row in found.rows)
    choose(panel, "prompt,tokens\nAgain,4\n")
    run(panel)
    assert len(answer(page, panel, tmp_path).rows) == 1


@pytest.mark.slow
def test_a_dropped_file_is_taken_and_the_sample_is_one(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    panel = opened(page)
    sample = download(page, button(panel, "Sample CSV"), tmp_path)
    page.evaluate(
        """(text) => {
            const files = new DataTransfer();
            files.items.add(new File([text], "dropped.csv"));
            const batch = document.querySelector(".batch");
            for (const name of ["dragenter", "dragover", "drop"]) {
                batch.dispatchEvent(new DragEvent(name, { dataTransfer: files, bubbles: true, cancelable: true }));
            }
        }""",
        sample,
    )
    expect(panel.locator(".file")).to_have_text("dropped.csv")
    run(panel)
    assert len(answer(page, panel, tmp_path).rows) == 2
    expect(panel.locator(".faults")).to_have_text("")


@pytest.mark.slow
def test_what_cannot_be_read_is_said_in_a_sentence(visit: Visit) -> None:
    page = visit()
    panel = opened(page)
    alert = panel.get_by_role("alert")
    choose(panel, b"prompt\n\xff\xfe", "latin.csv")
    expect(alert).to_contain_text("not in UTF-8")
    expect(button(panel, "Run")).to_be_disabled()
    choose(panel, "prompt\n" + "x" * 1_000_001, "large.csv")
    expect(alert).to_contain_text("larger than 1 MB")
    choose(panel, "text\nHello\n", "other.csv")
    expect(alert).to_be_hidden()
    button(panel, "Run").click()
    expect(alert).to_contain_text("The file has no column 'prompt'.")
    choose(panel, '<img src=x onerror="alert(1)">,prompt\n1,<b>Dear</b>\n', "<i>.csv")
    run(panel)
    assert panel.locator("img, td b").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["desktop", "dark", "phone"])
def test_the_panel_fits_and_has_no_barriers(visit: Visit, shape: str) -> None:
    page = visit(390, 844, touch=True) if shape == "phone" else visit(dark=shape == "dark")
    panel = opened(page)
    choose(panel, FILE)
    run(panel)
    width, height = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert width <= (390 if shape == "phone" else 1280)
    assert shape == "phone" or height <= 800
    found = Axe().run(page, context="#shelf").response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


@pytest.mark.slow
def test_a_tab_that_is_closed_in_mid_batch_gives_its_rows_back(visit: Visit, desk: Desk) -> None:
    page = visit()
    panel = opened(page)
    choose(panel, "prompt,tokens\n" + "A window,900\n" * 40)
    button(panel, "Run").click()
    wait(page, lambda: desk.scheduler.rows_in_use == 16)
    page.close()
    other = visit()
    wait(other, lambda: desk.scheduler.rows_in_use == 0)
