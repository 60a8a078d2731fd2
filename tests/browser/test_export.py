"""Export in a real browser: the state of the page as a file, and the page from that file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from mixer import Desk, Mix, load_mix
from tests.browser.conftest import Visit

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]


def export(page: Page, kind: str, folder: Path) -> Path:
    page.locator("#export-panel label", has_text=kind).first.click()
    page.get_by_role("button", name="Export", exact=True).click()
    link = page.locator("#export-file")
    expect(link).to_be_visible(timeout=30_000)
    with page.expect_download() as download:
        link.click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_sliders_come_back_from_an_exported_mix(visit: Visit, desk: Desk, tmp_path: Path) -> None:
    page = visit(query="?v=1&poetry=0.8&formality=-0.4&p=Dear")
    page.get_by_role("tab", name="Export").click()
    path = export(page, "Mix", tmp_path)
    assert path.name == "mix.yaml"
    mix = load_mix(path)
    assert mix == desk.mix({"poetry": 0.8, "formality": -0.4})
    assert isinstance(mix, Mix)


def test_an_adapter_is_downloaded_and_one_of_nothing_is_refused(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    page.get_by_role("tab", name="Export").click()
    page.get_by_role("radio", name="PEFT adapter").check()
    page.get_by_role("button", name="Export", exact=True).click()
    status = page.locator("#export-panel [role=status]")
    expect(status).to_contain_text("Move a slider")
    page.locator(".fader").first.focus()
    page.keyboard.press("End")
    page.get_by_label("Rank").fill("8")
    path = export(page, "PEFT adapter", tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert "adapter/adapter_model.safetensors" in archive.namelist()
    expect(status).to_contain_text("Rank 8")
