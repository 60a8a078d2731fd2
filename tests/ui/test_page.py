from __future__ import annotations

import re
from pathlib import Path

from mixer import Desk
from mixer.resources import WEB
from mixer.ui import build
from mixer.ui.web import head, read
from tests.ui.conftest import in_loop

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = "".join(read(path.name) for path in sorted(WEB.glob("*.js")))


def test_the_page_builds_for_the_shipped_desk(desk: Desk) -> None:
    config = in_loop(lambda: build(desk)).get_config_file()
    (deck,) = [c for c in config["components"] if c["props"].get("elem_id") == "deck"]
    controls = {control["name"]: control for control in deck["props"]["props"]["controls"]}
    assert list(controls) == list(dict.fromkeys([*desk.attributes, *desk.rewards]))
    assert {name for name, control in controls.items() if control["anchors"]} == set(desk.attributes)
    assert {name for name, control in controls.items() if control["reward"]} == set(desk.rewards)


def test_style_sheets_and_scripts_name_no_other_machine() -> None:
    text = head() + SCRIPTS
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\b)|@import|url\(", text)  # an XML namespace is not loaded


def test_nothing_in_the_scripts_writes_markup() -> None:
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", SCRIPTS)
