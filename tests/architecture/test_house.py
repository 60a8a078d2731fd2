"""Rules of the house that import-linter cannot see: what an import loads, public names, lengths of files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mixer

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = ["Anchor", "Attribute", "Desk", "Effects", "Mix", "MixerError", "Output", "Request"]
PUBLIC += ["SamplingParams", "Segment", "Session", "Setting", "Stats", "Steering", "Step"]
PUBLIC += ["effects", "export_adapter", "export_merged", "load_mix", "save_mix"]
LIGHT = ["values", "formula"]  # folders that need the standard library alone
SOURCES = [path for folder in ("mixer", "bench", "tests", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["mixer", "mixer.cli", "mixer.ui", "mixer.__main__", "mixer.files.presets"])
def test_light_doors_do_not_load_torch(module: str):
    assert "torch" not in loaded_by(f"import {module}")


@pytest.mark.parametrize("folder", LIGHT)
def test_values_and_formulas_need_the_standard_library_alone(folder: str):
    modules = map(module_of, sorted((ROOT / "mixer" / folder).rglob("*.py")))
    third_party = {"torch", "numpy", "yaml", "transformers", "safetensors", "gradio"}
    assert not third_party & loaded_by(f"import mixer.errors, {', '.join(modules)}")


def test_the_public_names_are_these():
    assert sorted(mixer.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(mixer, name).__name__ == name
    with pytest.raises(AttributeError, match="Dusk"):
        _ = mixer.Dusk


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "assets" / "web").iterdir())], ids=lambda path: path.name)
def test_files_are_one_idea_long(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
