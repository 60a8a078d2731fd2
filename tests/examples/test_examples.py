"""Every example runs by the command that it names, and shows what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def output_of(name: str) -> list[str]:
    """The lines that an example prints."""
    words = [sys.executable, "-m", f"examples.{name}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_slider_moves_while_the_text_streams():
    out = "\n".join(output_of("steer_while_streaming"))
    before, after = re.findall(r"^ *(\d+) tokens under: formality [+-]1\.00$", out, re.MULTILINE)
    assert (int(before), int(after)) == (31, 49) and out.index("formality +1.00") < out.index("formality -1.00")
    scores = dict(re.findall(r"'(\w+)': ([\d.]+)", out.split("Scores of the judges:")[1]))
    assert "formality" in scores and all(0 <= float(score) <= 1 for score in scores.values())


def test_formulas_write_and_a_wrong_one_says_where():
    *lines, wrong = output_of("formula")
    texts = [line for line in lines if line.startswith("    The customer said,")]
    weights = [float(found) for found in re.findall(r"add up to ([\d.]+)", "\n".join(lines))]
    assert len(set(texts)) == 5 and weights == [1, 1, 1, 0.04, 1]
    assert wrong.startswith("Line 1, column 11:") and "Did you mean polite" in wrong


@pytest.mark.slow
def test_anchors_are_trained_for_a_base_of_ones_own():
    out = "\n".join(output_of("own_base"))
    losses = re.findall(r"^formality\.(\w+): loss ([\d.]+) -> ([\d.]+)$", out, re.MULTILINE)
    assert [pole for pole, _, _ in losses] == ["negative", "positive"]
    assert all(float(after) < float(before) for _, before, after in losses)
    casual, base, formal = re.findall(r"^formality (?:-1|0|1): (.+)$", out, re.MULTILINE)
    assert casual != formal != base


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_run_and_is_short(name: str):
    text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert f'output_of("{name}")' in Path(__file__).read_text(encoding="utf-8")
    assert f"    python -m examples.{name}" in text and len(text.splitlines()) <= 60
