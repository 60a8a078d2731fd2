"""The house plan: modules import from lower floors, or from one listed before them; light doors stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = [
    [
        "mixer.errors",
        "mixer.values.mix",
        "mixer.values.sampling",
        "mixer.values.steering",
        "mixer.formula",
        "mixer.formula.tree",
        "mixer.formula.functions",
        "mixer.formula.lexer",
        "mixer.formula.cursor",
        "mixer.formula.terms",
        "mixer.formula.parser",
        "mixer.formula.analysis",
        "mixer.formula.check",
        "mixer.formula.bind",
        "mixer.formula.compile",
    ],
    [
        "mixer.adapters.low_rank",
        "mixer.rewards.heads",
        "mixer.kernels",
        "mixer.decoding.sampler",
        "mixer.rewards.controller",
        "mixer.decoding.evaluate",
        "mixer.model.torch_backend",
        "mixer.model.prefix_cache",
        "mixer.model.auto_fold",
    ],
    [
        "mixer.model.base",
        "mixer.adapters.calibration",
        "mixer.adapters.peft",
        "mixer.rewards.files",
        "mixer.judges.features",
        "mixer.judges.linear",
        "mixer.judges.classifier",
        "mixer.model.model",
        "mixer.rewards.rad",
        "mixer.files.mix_file",
        "mixer.files.presets",
    ],
    [
        "mixer.decoding.text",
        "mixer.decoding.opinions",
        "mixer.decoding.speculation",
        "mixer.decoding.session",
        "mixer.decoding.replay",
        "mixer.decoding.reference",
        "mixer.decoding.rows",
        "mixer.decoding.scheduler",
        "mixer.catalog",
        "mixer.desk",
    ],
    [
        "mixer.tasks.effects",
        "mixer.export",
        "mixer.export.gguf",
        "mixer.files.csv_table",
        "mixer.tasks.batch",
        "mixer.tasks.batch_csv",
        "mixer.process",
        "mixer.training.data",
        "mixer.training.word_vectors",
        "mixer.training.corpus",
        "mixer.training.base",
        "mixer.training.judge",
        "mixer.training.rows",
        "mixer.training.anchor",
        "mixer.training.labels",
        "mixer.training.reward_model",
        "mixer.training.prefix_samples",
        "mixer.training.reward_head",
        "mixer.measure",
    ],
    ["mixer.cli", "mixer.ui"],
]
RANK = {name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)}
PUBLIC = ["Anchor", "Attribute", "Desk", "Effects", "Mix", "MixerError", "Output", "Request"]
PUBLIC += ["SamplingParams", "Segment", "Session", "Setting", "Stats", "Steering", "Step"]
PUBLIC += ["effects", "export_adapter", "export_merged", "load_mix", "save_mix"]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "mixer").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name not in ("mixer", "mixer.__main__", "mixer.training"):
            found[name] = path
    return found


def rank(module: str) -> tuple[int, int] | None:
    """The place of a module, or of the listed package that it is part of."""
    while module and module not in RANK:
        module = module.rpartition(".")[0]
    return RANK.get(module)


def imports(name: str, path: Path) -> set[str]:
    """Modules of this project that a file imports when it runs; those for type checkers alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    known = modules()
    return {module for module in found if module in known}


@pytest.mark.parametrize("name", modules())
def test_imports_point_downward(name: str):
    own = rank(name)
    assert own is not None, f"{name} has no place in the house: list it in FLOORS"
    for imported in imports(name, modules()[name]):
        its = rank(imported)
        assert its is not None and (its < own or its == own), f"{name} imports {imported}, which lies above it"


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["mixer", "mixer.values.mix", "mixer.values.sampling", "mixer.formula.parser", "mixer.cli", "mixer.ui"]
)
def test_light_doors_do_not_load_torch(module: str):
    assert "torch" not in loaded_by(f"import {module}")


@pytest.mark.parametrize("module", FLOORS[0])
def test_the_ground_floor_needs_the_standard_library_alone(module: str):
    third_party = {"torch", "numpy", "yaml", "transformers", "safetensors", "gradio"}
    assert not third_party & loaded_by(f"import {module}")


def test_the_public_names_are_these():
    import mixer

    assert sorted(mixer.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(mixer, name).__name__ == name
    with pytest.raises(AttributeError, match="Dusk"):
        _ = mixer.Dusk


@pytest.mark.parametrize("path", [p for p in ROOT.rglob("*.py") if ".venv" not in p.parts], ids=lambda p: p.name)
def test_files_are_one_idea_long(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
