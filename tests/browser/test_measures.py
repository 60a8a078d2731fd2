"""The page's benchmarks, `python -m mixer bench page` and `soak`, against a real page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

ROOT = Path(__file__).resolve().parents[2]


def bench(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "mixer", "bench", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_moves_are_timed_beside_others_and_none_is_lost(server: Server) -> None:
    report = bench("page", server.url, "--takes", "1", "--beside", "1")
    assert report["moves"]["key"] == 12 and report["moves"]["drag"] > 5
    assert report["lost"] == 0 and report["exact"] == 1
    for name in ("open", "paint", "first", "key", "drag"):
        median, most = report[name]
        assert 0 < median <= most
    assert report["beside_tokens_per_second"][0] > 1
    assert not any(browser.busy for browser in server.browsers)


@pytest.mark.slow
def test_a_trial_leaves_nothing_behind() -> None:
    report = bench("soak", "--minutes", "1", "--pages", "2")
    assert report["trouble"] == {}
    assert (report["rest"]["sessions"], report["rest"]["busy"], report["rest"]["rows"]) == (0, 0, 0)
    assert sum(report["did"].values()) > 10
