"""Laws of anchor training, on a tiny random model: an anchor learns its own pole, loads in plain peft, and is kept."""

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mixer.adapters.anchor_set import load_anchors
from mixer.adapters.fingerprint import base_fingerprint
from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.training.anchor import AnchorConfig, train_anchor, train_anchors
from mixer.training.frozen_base import load_base, portable_name
from mixer.training.training_text import (
    Example,
    TrainingText,
    batches,
    mean_loglikelihoods,
    score_texts,
    training_text,
)
from tests.factory import make_base

CONFIG = AnchorConfig(rank=2, examples=30, lr=2e-2, batch_tokens=512)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of which one text says "aaab" and the other "zzzy"."""
    folder = tmp_path_factory.mktemp("data") / "pairs"
    folder.mkdir()
    with lzma.open(folder / "humor.jsonl.xz", "wt") as file:
        for i in range(60):
            opening, tail = f"Text {i} says", f" x{i}"
            pair = {
                "opening": opening,
                "positive": opening + " aaab" * 3 + tail,
                "negative": opening + " zzzy" * 3 + tail,
            }
            file.write(json.dumps(pair) + "\n")
    return folder.parent


@pytest.fixture(scope="module")
def trained(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("anchors")
    return out, train_anchors(base, data, out, CONFIG, anchors=[("humor", "negative"), ("humor", "positive")])


def test_an_anchor_likes_its_own_pole_better(trained: tuple[Path, dict]):
    for report in trained[1].values():
        assert report["own_loss_anchor"] < report["own_loss_base"] - 0.5
        gain = report["own_loss_base"] - report["own_loss_anchor"]
        assert gain > report["other_loss_base"] - report["other_loss_anchor"]
        assert report["pair_accuracy"] == 1.0 and report["test_pairs"] > 0


def test_an_anchor_loads_in_plain_peft_and_names_its_base(trained: tuple[Path, dict], base: Path):
    folder = trained[0] / "humor" / "positive"
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    }
    model = AutoModelForCausalLM.from_pretrained(base)
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        assert file.metadata()["base_fingerprint"] == base_fingerprint(model)
        names = list(file.keys())
    assert not any("embed" in name or "lm_head" in name for name in names) and len(names) == 2 * 7 * 2
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 4.0)
    assert config["base_model_name_or_path"] == portable_name(base)
    assert not Path(config["base_model_name_or_path"]).is_absolute()
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        before = model(ids).logits
        after = PeftModel.from_pretrained(model, str(folder))(ids).logits
    assert not torch.allclose(before, after)


def test_an_anchor_loads_in_the_desk_s_own_reader(trained: tuple[Path, dict], base: Path):
    found = load_anchors(trained[0], AutoModelForCausalLM.from_pretrained(base), str(base))
    assert [adapter.anchor.name for adapter in found.adapters] == ["humor.negative", "humor.positive"]
    assert found.problems == () and found.attributes["humor"].labels == ("plain", "humorous")


def test_a_finished_anchor_is_kept_until_its_settings_change(trained: tuple[Path, dict], base: Path, data: Path):
    out, reports = trained
    file = out / "humor" / "positive" / "adapter_model.safetensors"
    written = file.stat().st_mtime_ns
    kept = train_anchor(base, "humor", "positive", data, out, CONFIG)
    assert kept == json.loads(json.dumps(reports["humor.positive"])) and file.stat().st_mtime_ns == written


def test_a_strength_of_nothing_is_refused():
    with pytest.raises(InvalidValue, match="strength"):
        AnchorConfig(strengths={"humor": 0.0})


def test_a_strength_scales_the_finished_anchor_and_changes_nothing_else(
    trained: tuple[Path, dict], base: Path, data: Path, tmp_path: Path
):
    """The desk's coefficient 1 of the weaker anchor is coefficient 0.5 of the other; its report is its own."""
    weaker = replace(CONFIG, strengths={"humor": 0.5})
    report = train_anchor(base, "humor", "positive", data, tmp_path, weaker)
    folders = [home / "humor" / "positive" for home in (trained[0], tmp_path)]
    alphas = [json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] for folder in folders]
    assert alphas == [4.0, 2.0]
    full, half = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert all(torch.equal(full[name], half[name]) for name in full)
    at_full = trained[1]["humor.positive"]
    assert report["train_loss"] == at_full["train_loss"]
    assert at_full["own_loss_anchor"] < report["own_loss_anchor"] < report["own_loss_base"]


def test_training_repeats_to_the_bit(trained: tuple[Path, dict], base: Path, data: Path, tmp_path: Path):
    again = train_anchor(base, "humor", "negative", data, tmp_path, CONFIG)
    same = {"own_loss_anchor", "other_loss_anchor", "tokens", "train_loss"}
    assert {k: again[k] for k in same} == {k: trained[1]["humor.negative"][k] for k in same}


def test_steps_end_a_run(base: Path, data: Path, tmp_path: Path):
    config = AnchorConfig(rank=1, steps=2, batch_tokens=256, contrast=0.0)
    report = train_anchor(base, "humor", "positive", data, tmp_path, config)
    assert 0 < report["tokens"] <= 2 * 256


def test_unknown_names_are_refused(base: Path, data: Path, tmp_path: Path):
    with pytest.raises(UnknownName, match="humor"):
        train_anchor(base, "humour", "positive", data, tmp_path)
    with pytest.raises(UnknownName, match="positive"):
        train_anchor(base, "humor", "positiv", data, tmp_path)


def test_a_missing_base_is_a_bad_artifact(tmp_path: Path):
    with pytest.raises(BadArtifact, match="base model"):
        load_base(tmp_path / "none")


@pytest.mark.parametrize("bad", [{"rank": 0}, {"examples": 0}, {"lr": 0.0}, {"steps": 0}, {"contrast": -1.0}])
def test_settings_out_of_range_are_refused(bad: dict):
    with pytest.raises(InvalidValue):
        AnchorConfig(**bad)


lengths = st.lists(st.integers(2, 40), min_size=1, max_size=30)


@given(lengths, st.integers(40, 200), st.integers(0, 5))
def test_batches_hold_every_example_once_within_their_size(sizes: list[int], most: int, seed: int):
    examples = [
        Example(TrainingText((i,) * size, 1), TrainingText((i,) * 2, 1) if i % 2 else None)
        for i, size in enumerate(sizes)
    ]
    made = list(batches(examples, most, np.random.default_rng(seed)))
    assert sorted(t.own.ids for batch in made for t in batch) == sorted(t.own.ids for t in examples)
    for batch in made:
        rows = sum(2 if t.other else 1 for t in batch)
        assert len(batch) == 1 or rows * max(t.length for t in batch) <= most


def test_padding_changes_nothing_and_the_opening_does_not_count(base: Path):
    model, tokenizer = load_base(base, "cpu")
    texts = [training_text("One text", tokenizer, "One"), training_text("Another text that is longer", tokenizer)]
    alone = [score_texts(model, [text])[0] for text in texts]
    assert score_texts(model, texts) == pytest.approx(alone, abs=1e-4)
    assert texts[0].start == 4 and texts[1].start == 1
    assert mean_loglikelihoods(model, texts)[1].tolist() == [len(texts[0].ids) - 4, len(texts[1].ids) - 1]
