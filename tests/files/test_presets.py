"""Presets: every shipped preset can be read and used, and an error of a wrong file names the entry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mixer import Desk, SamplingParams
from mixer.errors import BadArtifact
from mixer.files.presets import PRESETS, Preset, load_presets
from mixer.formula.functions import FUNCTIONS

GOOD = {"name": "One", "formula": "sliders", "about": "Nothing.", "credit": "Nobody."}
SHIPPED = load_presets()
PAIRS = PRESETS.parent.parent / "anchors" / "pairs"


def written(tmp_path: Path, record: object) -> Path:
    path = tmp_path / "presets.yaml"
    path.write_text(yaml.safe_dump(record), encoding="utf-8")
    return path


def test_the_techniques_of_the_literature_are_there():
    names = {preset.name for preset in SHIPPED}
    assert len(names) == len(SHIPPED)
    assert names >= {"Classifier-free guidance", "PREADD", "DExperts", "Reward model as a LM", "FUDGE", "Self-debias"}
    assert names >= {"Detox by union", "Detox with a judge", "Persona", "Speculative decoding", "Contrastive decoding"}


@pytest.mark.parametrize("preset", SHIPPED, ids=lambda preset: preset.name)
def test_every_preset_says_whose_it_is_and_sets_sliders_that_it_follows(preset: Preset):
    assert "arXiv" in preset.credit and preset.prompt
    assert set(preset.settings) <= {path.stem for path in PAIRS.glob("*.yaml")}
    assert bool(preset.settings) == ("sliders" in preset.formula)


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk.load(device="cpu")


@pytest.mark.parametrize("preset", SHIPPED, ids=lambda preset: preset.name)
def test_every_preset_writes_on_the_shipped_desk(desk: Desk, preset: Preset):
    assert preset.prompt
    plan = desk.formula(preset.formula)
    assert plan.report.weight is None or plan.report.weight > 0
    params = SamplingParams(max_new_tokens=8, min_new_tokens=8, seed=1)
    mix = desk.mix(preset.settings)
    text = desk.generate(preset.prompt, mix, params, formula=preset.formula).token_ids
    plain = desk.generate(preset.prompt, mix, params).token_ids
    assert len(text) == 8 and (text == plain) == (preset.formula == "sliders" or plan.bound.draft is not None)


def test_the_guide_names_every_function_and_preset_and_its_examples_are_formulas(desk: Desk):
    guide = (PRESETS.parent.parent / "docs" / "formulas.md").read_text(encoding="utf-8")
    table = guide.split("## Operators")[1].split("\n\n")[1]
    assert all(f"`{name}" in table for name in FUNCTIONS) and all(f"| {p.name} |" in guide for p in SHIPPED)
    for row in table.splitlines()[2:]:
        if example := re.fullmatch(r".*\| `(.+)` \|", row):
            desk.formula(example[1])
        else:
            assert row.endswith("| |") and "reward" in row


def test_what_was_written_comes_back(tmp_path):
    more = GOOD | {"name": "Two", "prompt": "Once", "settings": {"humor": -1, "poetry": 0.5}}
    first, second = load_presets(written(tmp_path, [GOOD, more]))
    assert first == Preset("One", "sliders", "Nothing.", "Nobody.")
    assert second == Preset("Two", "sliders", "Nothing.", "Nobody.", "Once", {"humor": -1.0, "poetry": 0.5})


@pytest.mark.parametrize("missing", GOOD)
def test_a_missing_key_is_named(tmp_path, missing):
    record = {key: value for key, value in GOOD.items() if key != missing}
    with pytest.raises(BadArtifact, match=f"preset 1 has no {missing}"):
        load_presets(written(tmp_path, [record]))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"presets": [GOOD]}, "no list"),
        (None, "no list"),
        (["sliders"], "preset 1 holds no names"),
        ([GOOD, GOOD | {"author": "me"}], "preset 2 has 'author'"),
        ([GOOD | {"formula": 1.5}], "formula must be a text"),
        ([GOOD | {"about": " "}], "about must be a text"),
        ([GOOD | {"prompt": None}], "prompt must be a text"),
        ([GOOD | {"settings": [1]}], "settings must be"),
        ([GOOD | {"settings": {1: 1.0}}], "settings must be"),
        ([GOOD | {"settings": {"humor": "high"}}], "settings.humor"),
        ([GOOD | {"settings": {"humor": 30}}], "settings.humor"),
        ([GOOD | {"settings": {"humor": float("nan")}}], "settings.humor"),
        ([GOOD, GOOD], "more than one preset called 'One'"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path, record, said):
    with pytest.raises(BadArtifact, match=said) as caught:
        load_presets(written(tmp_path, record))
    assert "presets.yaml" in caught.value.message and caught.value.hint


@pytest.mark.parametrize("data", [b"- [", b"\xff\xfe\xff", b"- !!python/object:os.system {}"])
def test_a_file_that_is_no_yaml_is_refused(tmp_path, data):
    path = tmp_path / "presets.yaml"
    path.write_bytes(data)
    with pytest.raises(BadArtifact, match="cannot be read"):
        load_presets(path)
    with pytest.raises(BadArtifact, match="cannot be read"):
        load_presets(tmp_path / "none.yaml")
