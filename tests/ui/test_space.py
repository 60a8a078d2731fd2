"""The repository as a Hugging Face Space: the versions in its README, and the address on which app.py serves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_asks_for_what_the_tests_ran_with() -> None:
    _, front, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    space = yaml.safe_load(front)
    pins = (ROOT / "constraints.txt").read_text().split()
    assert space["sdk"] == "gradio"
    assert f"gradio=={space['sdk_version']}" in pins
    assert space["python_version"] == "3.12"  # a text; without quotes YAML reads a number
    assert (ROOT / space["app_file"]).is_file()
    assert space["header"] == "mini"
    assert space["license"] == "apache-2.0"
    assert len(space["short_description"]) <= 60
    assert "gradio[mcp]" in (ROOT / "requirements.txt").read_text()


@pytest.mark.slow
def test_app_serves_where_the_environment_says() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env={**os.environ, **told})
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            try:
                config = httpx.get(f"http://127.0.0.1:{port}/config", timeout=10).json()
                break
            except httpx.TransportError:
                time.sleep(0.2)
        assert config["enable_queue"]
        assert not config["analytics_enabled"]
        assert not config["run_history"]
        addresses = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else f"00000000:{port:04X}"
        assert f"00000000:{port:04X}" in addresses
    finally:
        process.terminate()
        process.wait(30)
