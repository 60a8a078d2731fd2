"""The command that opens the page: what it refuses before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixer.cli import main


@pytest.mark.parametrize("flags", [["--base", "/nowhere/at/all"], ["--device", "abacus"], ["--dtype", "int7"]])
def test_a_bad_flag_is_one_line_on_stderr_and_code_2(flags: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["page", *flags]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_anchors_folder_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["page", "--anchors", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("port", ["0", "70000"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]):
    assert main(["page", "--port", port]) == 2
    assert "port" in capsys.readouterr().err
