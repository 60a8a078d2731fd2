"""Recipes as files: the shipped ones are sound, and what is wrong is named with the file, the key, what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mixer.errors import BadArtifact, UnknownName
from mixer.recipe.file import find_recipe, shipped_recipes
from mixer.training.anchor import AnchorConfig
from mixer.training.data import attributes_with_pairs
from tests.recipe.parts import write_recipe

SHIPPED = {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "llama-3.2-1b-instruct": "meta-llama/Llama-3.2-1B-Instruct",
}


def test_the_shipped_recipes_are_these_and_are_sound():
    assert {name: find_recipe(name).base for name in shipped_recipes()} == SHIPPED
    for name in SHIPPED:
        recipe = find_recipe(name)
        assert set(recipe.attributes) | set(recipe.head_attributes) <= set(attributes_with_pairs(None))
        assert recipe.heads.reads == "final", "decoding reads no other states"
        assert ("Built with Llama" in recipe.notice) == ("llama" in recipe.base.lower())


def test_the_shipped_base_s_recipe_is_what_its_anchors_were_made_with():
    assert find_recipe("smollm2-135m").anchors == AnchorConfig()


def test_a_small_recipe_is_enough(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: somebody/model\nlicense: MIT\nheads:\nmeasure: {prompts: 3}\n")
    recipe = find_recipe(path)
    assert (recipe.name, recipe.base, recipe.license) == ("mine", "somebody/model", "MIT")
    assert recipe.head_attributes == () and recipe.measure.prompts == 3 and recipe.anchors == AnchorConfig()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bass": 1}, r"mine\.yaml has 'bass', which means nothing here\. Did you mean base\? Known: base, license"),
        ({"license": None}, r"mine\.yaml has no license"),
        ({"base": 7}, r"mine\.yaml: base is 7\. It must be a text"),
        ({"anchors": {"rnak": 2}}, r"mine\.yaml, anchors has 'rnak'.*Did you mean rank\? Known: rank, lora_alpha"),
        ({"anchors": {"rank": 2.5}}, r"mine\.yaml, anchors: rank is 2\.5\. It must be a whole number"),
        ({"anchors": {"rank": True}}, r"anchors: rank is True\. It must be a whole number"),
        ({"anchors": {"rank": 0}}, r"anchors: rank is 0\. rank, examples, .* must be positive"),
        ({"anchors": {"lr": "1e-3"}}, r"anchors: lr is '1e-3'\. It must be a number, such as 0\.0015"),
        ({"anchors": {"lr": float("inf")}}, r"anchors: lr is inf\. It must be a number"),
        ({"anchors": {"steps": "all"}}, r"anchors: steps is 'all'\. It must be a whole number or null"),
        ({"anchors": {"unpaired": {"humor": "x"}}}, r"unpaired is .*It must be names, and for each a number"),
        ({"anchors": [1]}, r"mine\.yaml, anchors is \[1\]\. It must be names with values\. Known: rank"),
        ({"heads": {"source": "texts"}}, r"heads: source is 'texts'\. It must be one of rad, responses"),
        ({"heads": {"attributes": "formality"}}, r"heads: attributes is 'formality'\. It must be a list of names"),
        ({"heads": {"texts": 3}}, r"heads: texts is 3\. .*texts 20 or more"),
        ({"attributes": ["humor", "humor"]}, r"attributes has 'humor' twice"),
        ({"reward_model": {"minutes": 0}}, r"reward_model: minutes is 0\. minutes, lr, .* must be positive"),
        (
            {"measure": {"coupling": [2, 2]}},
            r"measure: coupling is \[2, 2\]\. It must be a list: 3 times a whole number",
        ),
        ({"measure": {"prompts": 1}}, r"measure: prompts is 1\. Each number of prompts"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(changes: dict[str, Any], says: str, tmp_path: Path):
    with pytest.raises(BadArtifact, match=says):
        find_recipe(write_recipe(tmp_path / "mine.yaml", **changes))


@pytest.mark.parametrize("text", ["- a list", "base: [", "base: !!python/object:os.system x", ""])
def test_other_files_are_refused(text: str, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(BadArtifact, match=r"mine\.yaml"):
        find_recipe(tmp_path / "mine.yaml")


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path):
    with pytest.raises(UnknownName, match=r"no recipe called 'qwen3-0\.6'.*Did you mean qwen3-0\.6b"):
        find_recipe("qwen3-0.6")
    with pytest.raises(BadArtifact, match="cannot be read"):
        find_recipe(tmp_path / "none.yaml")
