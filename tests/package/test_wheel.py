"""The package outside of a checkout: a wheel, installed into a fresh environment, used from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = [
    "mixer/py.typed",
    "mixer/measure/card.md",
    "mixer/measure/card_own_base.md",
    "mixer/recipes/smollm2-135m.yaml",
    "mixer/assets/base/model.safetensors",
    "mixer/assets/judges/words.json",
    "mixer/assets/web/deck.js",
    "mixer/assets/presets.yaml",
    "mixer/assets/translations.yaml",
    "mixer/anchors/tiny/formality/positive/adapter_model.safetensors",
    "mixer/anchors/tiny/formality/reward/head.safetensors",
    "mixer/anchors/pairs/formality.jsonl",
    "mixer/anchors/tiny/coupling.json",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    return next(folder.glob("mixing_desk-*.whl"))


@pytest.fixture(scope="module")
def env(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; everything else comes from the one that runs the tests."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    pip = [str(home / "bin" / "pip"), "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run(pip, check=True)
    return home / "bin"


def run(folder: Path, *words: object) -> str:
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=surroundings, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_what_the_desk_needs_and_no_more(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names.issuperset(NEEDED)
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"mixer"} and not [name for name in names if "screenshots" in name or "/tests/" in name]


@pytest.mark.slow
def test_python_writes_a_text_from_an_empty_folder(env: Path, tmp_path: Path):
    code = """
import mixer
from mixer import Desk, SamplingParams

desk = Desk.load()
print(mixer.__file__)
print(len(desk.attributes), desk.generate("Dear neighbour,", desk.mix(formality=1), SamplingParams(8, seed=7)).text)
"""
    where, text = run(tmp_path, env / "python", "-c", code).strip().split("\n", 1)
    assert Path(where).is_relative_to(env.parent)
    assert text.startswith("6 ") and len(text) > 10
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_so_does_the_command(env: Path, tmp_path: Path):
    words = ["generate", "Dear neighbour,", "--set", "formality=1", "--max-new-tokens", "8", "--json"]
    last = run(tmp_path, env / "mixing-desk", *words).strip().splitlines()[-1]
    assert json.loads(last)["text"]
    assert "formality" in run(tmp_path, env / "mixing-desk", "attributes")
    assert "--port" in run(tmp_path, env / "mixing-desk", "page", "--help")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_and_the_page_is_built(env: Path, tmp_path: Path):
    code = "from mixer import Desk; from mixer.ui import build; print(len(build(Desk.load()).fns))"
    assert int(run(tmp_path, env / "python", "-c", code).split()[-1]) > 5


@pytest.mark.slow
def test_what_commands_write_lies_below_the_current_folder(env: Path, tmp_path: Path):
    code = """
import inspect
from mixer.cli.evaluate import _anchors_folder
from mixer.training.anchor import train_anchors

class Options:
    anchors = None

print(inspect.signature(train_anchors).parameters["out"].default, _anchors_folder(Options()))
"""
    assert run(tmp_path, env / "python", "-c", code).split() == ["anchors", "anchors"]
