from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

from mixer import Desk
from mixer.resources import WEB
from mixer.ui import build
from mixer.ui.web import head, read
from tests.ui.conftest import in_loop

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = "".join(read(path.name) for path in sorted(WEB.glob("*.js")))


@pytest.fixture
def app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("app", ROOT / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.mark.parametrize("flags", [["--base", "/nowhere/at/all"], ["--device", "abacus"], ["--dtype", "int7"]])
def test_a_bad_flag_is_one_line_on_stderr_and_code_2(
    app: ModuleType, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(flags) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_anchors_folder_that_is_not_there_is_refused(
    app: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base = [f"--base={os.environ['MIXER_BASE']}"] if "MIXER_BASE" in os.environ else []
    assert app.main([*base, "--anchors", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("port", ["0", "70000", "x"])
def test_a_port_that_is_none_is_refused(app: ModuleType, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        app.main(["--port", port])
    assert refused.value.code == 2
    assert "port" in capsys.readouterr().err
