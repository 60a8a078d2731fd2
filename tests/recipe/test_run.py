"""A recipe from the base to the card, on random stand-ins of each family; what is finished is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mixer import Desk
from mixer.cli import main
from mixer.errors import BadArtifact, UnknownName
from mixer.recipe.facts import card_facts
from mixer.recipe.file import find_recipe
from mixer.recipe.run import run_recipe
from tests.recipe.parts import make_stand_in, write_recipe

ANCHORS = [f"{name}.{pole}" for name in ("formality", "humor") for pole in ("negative", "positive")]


def words(root: Path) -> list[str]:
    paths = {"--base": root / "base", "--out": root / "out", "--work": root / "work"}
    return ["train", "recipe", str(root / "mine.yaml"), *(str(word) for pair in paths.items() for word in pair)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Qwen3 stand-in and all that its recipe made."""
    root = tmp_path_factory.mktemp("qwen3")
    make_stand_in(root / "base", "qwen3")
    write_recipe(root / "mine.yaml")
    assert main(words(root)) == 0
    return root


def test_one_command_makes_everything_in_order(made: Path):
    record = json.loads((made / "out" / "recipe.json").read_text())
    measures = ["coupling", "control", "control of replies", "model card"]
    assert list(record["steps"]) == [*(f"anchor {name}" for name in ANCHORS), "reward head formality", *measures]
    desk = Desk.load(made / "base", made / "out", device="cpu")
    assert list(desk.attributes) == ["formality", "humor"] and desk.rewards == ("formality",)
    assert desk.anchor_set.calibration is not None, "Decouple is on"
    for name in ("control.json", "control-replies.json"):
        assert json.loads((made / "out" / name).read_text())["prompts"] == 2
    adapter = json.loads((made / "out" / "humor" / "positive" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "somebody/stand-in", "the hub id, wherever it was loaded from"
    log = (made / "out" / "recipe.log").read_text()
    assert "[1/9] anchor formality.negative: begins" in log and "nothing is left" in log and str(made / "base") in log


def test_the_card_has_every_part(made: Path):
    card = (made / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith("# Anchors for stand-in\n") and "license: Apache-2.0" in card and "qwen3, " in card
    assert "| formality | labelled texts | 2 |" in card and "| plain | " in card and "| decoupled | " in card
    assert "Continuing 2 held-out openings, 6 tokens each" in card and "Replying to 2 requests" in card
    assert sum(line.startswith("- ") and "**" in line for line in card.splitlines()) == 30
    assert "not measured" not in card and "not been measured" not in card


def test_a_finished_run_is_kept_and_a_changed_part_is_made_again(made: Path, tmp_path: Path):
    root = shutil.copytree(made, tmp_path / "again")

    def files() -> dict[str, int]:
        return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in (root / "out").rglob("*") if p.is_file()}

    before = files()
    recipe = find_recipe(root / "mine.yaml")
    steps = run_recipe(recipe, root / "base", root / "out", work=root / "work")["steps"]
    assert {path for path, time in files().items() if time != before[path]} == {
        "out/recipe.json",
        "out/recipe.log",
        "out/MODEL_CARD.md",
    }
    assert "loss of its own pole" in steps["anchor humor.positive"]["said"] and steps["control"]["seconds"] > 0
    assert "[4/9] anchor humor.positive: kept" in (root / "out" / "recipe.log").read_text()

    recipe = find_recipe(
        write_recipe(root / "mine.yaml", measure={"prompts": 3, "tokens": 6, "coupling": [2, 2, 2], "mixes": [2, 2]})
    )
    run_recipe(recipe, root / "base", root / "out", work=root / "work")
    changed = {path for path, time in files().items() if time != before[path]}
    assert changed == {
        f"out/{name}" for name in ("recipe.json", "recipe.log", "MODEL_CARD.md", "control.json", "control-replies.json")
    }


def test_the_card_alone_takes_the_recipe_s_facts(made: Path, tmp_path: Path, capsys):
    root = shutil.copytree(made, tmp_path / "card")
    samples = (root / "out" / "samples.json").read_text()
    (root / "out" / "control-replies.json").unlink()
    command = ["evaluate", "card", "--base", str(root / "base"), "--anchors", str(root / "out")]
    assert main([*command, "--license", "MIT", "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["card"])
    text = path.read_text(encoding="utf-8")
    assert (
        "license: MIT" in text
        and "Replying to requests: not measured. `python -m mixer evaluate control --chat" in text
    )
    assert (root / "out" / "samples.json").read_text() == samples, "those of the same anchors are kept"
    assert card_facts(root / "out", "x").license == "Apache-2.0"
    shipped = card_facts(root / "base", "meta-llama/Llama-3.2-1B")
    assert shipped.license == "Llama 3.2 Community License" and "Built with Llama" in shipped.notice
    assert card_facts(root / "base", "somebody/else").license == ""


@pytest.mark.parametrize("family", ["llama", pytest.param("smollm2", marks=pytest.mark.slow)])
def test_other_families_and_reward_models(family: str, tmp_path: Path):
    make_stand_in(tmp_path / "base", family)
    heads = {"attributes": ["humor"], "source": "rad", "epochs": 1, "rank": 2, "texts": 40, "a_text": 4}
    write_recipe(tmp_path / "mine.yaml", heads=heads, reward_model={"minutes": 0.01, "lora": 2, "longest": 24})
    assert main(words(tmp_path)) == 0
    steps = json.loads((tmp_path / "out" / "recipe.json").read_text())["steps"]
    assert ("control of replies" in steps) == (family == "smollm2")
    assert "reward model humor" in steps and "centred R²" in steps["reward head humor"]["said"]
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert (", reply to *" in card) == (family == "smollm2") and "| humor | a reward model | 2 |" in card


def test_what_cannot_be_run_is_refused_before_anything_is_made(tmp_path: Path):
    unknown = write_recipe(tmp_path / "a.yaml", attributes=["formalty"])
    with pytest.raises(UnknownName, match="Did you mean formality"):
        run_recipe(find_recipe(unknown), tmp_path / "base", tmp_path / "out")
    toxic = write_recipe(tmp_path / "b.yaml", heads={"attributes": ["toxicity"]})
    with pytest.raises(UnknownName, match="toxicity"):
        run_recipe(find_recipe(toxic), tmp_path / "base", tmp_path / "out")
    with pytest.raises(BadArtifact, match="There is no base model at"):
        run_recipe(find_recipe(write_recipe(tmp_path / "c.yaml")), tmp_path / "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_card_needs_anchors(made: Path, capsys):
    assert main(["evaluate", "card", "--base", str(made / "base")]) == 2
    assert "No anchors are shipped for base. Give --anchors their folder." in capsys.readouterr().err
