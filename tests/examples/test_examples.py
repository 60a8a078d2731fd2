"""Every example runs as it stands and shows what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def output_of(name: str) -> str:
    words = [sys.executable, str(ROOT / "examples" / name)]
    done = subprocess.run(words, cwd=ROOT, env=surroundings(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_slider_moves_while_the_text_streams():
    out = output_of("steer_while_streaming.py")
    assert "tokens under: formality +1.00" in out and "tokens under: formality -1.00" in out
    assert "Scores of the judges: {'" in out


def test_formulas_write_and_a_wrong_one_says_where():
    out = output_of("formula.py")
    texts = [line for line in out.splitlines() if "The customer said," in line]
    assert len(set(texts)) == len(texts) == 5
    assert "Line 1, column" in out and "polite" in out.splitlines()[-1]


@pytest.mark.slow
def test_anchors_are_trained_for_a_base_of_ones_own():
    out = output_of("own_base.py")
    assert "Anchors: formality.negative formality.positive" in out
    assert len({line for line in out.splitlines() if line.startswith("formality ")}) == 3


def test_every_example_is_run():
    tested = Path(__file__).read_text(encoding="utf-8")
    assert [
        path.name for path in sorted((ROOT / "examples").iterdir()) if path.is_file() and path.name not in tested
    ] == []
