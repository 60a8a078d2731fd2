"""Adapters of others compute what peft computes; what cannot be mixed is refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mixer import Desk
from mixer.adapters.fingerprint import base_fingerprint
from mixer.errors import BadArtifact, MixerError, Unsupported
from tests.factory import edit_config, make_adapter, make_base, merged_reference

PROMPT = "Even in the ruins"


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    """A copy of one good adapter, alone in an anchors folder."""
    return Path(shutil.copytree(tiny / "anchors/formality/positive", tmp_path / "anchors/mine"))


def load(tiny: Path, anchors: Path, **options) -> Desk:
    return Desk.load(tiny / "base", anchors, device="cpu", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"r": 3, "lora_alpha": 7},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear"},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 6}},
        {"alpha_pattern": {"mlp.up_proj": 20, "v_proj": 1}, "use_rslora": True},
        {"rank_pattern": {"o_proj": 7}, "alpha_pattern": {"o_proj": 3}},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_plain_lora_equals_peft(tiny: Path, tmp_path: Path, options: dict):
    path = make_adapter(tiny / "base", tmp_path / "anchors/mine", seed=9, **options)
    desk = load(tiny, tmp_path / "anchors")
    assert desk.anchors == ("mine.positive",)
    reference = merged_reference(tiny / "base", [(path, -0.7)])
    with torch.inference_mode():
        ids = torch.tensor([desk.tokenizer(PROMPT).input_ids])
        expected = torch.log_softmax(reference(ids).logits[0, -1], dim=-1)
    assert torch.allclose(desk.logprobs(PROMPT, desk.mix(mine=-0.7)), expected, atol=1e-4, rtol=0)


def test_adapters_of_different_ranks_and_modules_share_one_gate(tiny: Path, tmp_path: Path):
    wide = make_adapter(tiny / "base", tmp_path / "anchors/wide/positive", seed=3, r=8)
    slim = make_adapter(tiny / "base", tmp_path / "anchors/wide/negative", seed=4, r=2, target_modules=["q_proj"])
    desk = load(tiny, tmp_path / "anchors")
    mix = desk.mix_from_coefficients({"wide.positive": 0.4, "wide.negative": 1.1})
    reference = merged_reference(tiny / "base", [(wide, 0.4), (slim, 1.1)])
    with torch.inference_mode():
        ids = torch.tensor([desk.tokenizer(PROMPT).input_ids])
        expected = torch.log_softmax(reference(ids).logits[0, -1], dim=-1)
    assert torch.allclose(desk.logprobs(PROMPT, mix), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "biases"),
        ({"trainable_token_indices": [1, 2]}, "token embeddings"),
        ({"init_lora_weights": "pissa"}, "base weights"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_what_is_no_plain_lora_is_refused_with_the_reason(tiny: Path, adapter: Path, changes: dict, reason: str):
    edit_config(adapter, **changes)
    with pytest.raises(Unsupported, match=reason):
        load(tiny, adapter.parent)


def test_an_adapter_for_a_base_of_another_shape_is_refused(tiny: Path, tmp_path: Path):
    other = make_base(tmp_path / "other", "gpt2")
    make_adapter(other, tmp_path / "anchors/alien", "gpt2")
    with pytest.raises(BadArtifact, match="another base model: this one has no module"):
        load(tiny, tmp_path / "anchors", any_base=True)


def test_an_adapter_that_names_another_base_is_refused_unless_admitted(tiny: Path, adapter: Path):
    edit_config(adapter, base_model_name_or_path="someone/else-7b")
    with pytest.raises(BadArtifact, match="trained on someone/else-7b"):
        load(tiny, adapter.parent)
    assert load(tiny, adapter.parent, any_base=True).anchors == ("mine.positive",)


def test_the_fingerprint_tells_bases_of_one_shape_apart_and_outranks_names(tiny: Path, adapter: Path, tmp_path: Path):
    mine = AutoModelForCausalLM.from_pretrained(tiny / "base")
    assert base_fingerprint(mine.bfloat16()) == base_fingerprint(AutoModelForCausalLM.from_pretrained(tiny / "base"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"base_fingerprint": base_fingerprint(mine)})
    edit_config(adapter, base_model_name_or_path="renamed")
    assert load(tiny, adapter.parent).anchors == ("mine.positive",)
    twin = make_base(tmp_path / "twin" / "base", seed=5)
    with pytest.raises(BadArtifact, match=r"another base model.*fingerprint"):
        Desk.load(twin, adapter.parent, device="cpu")


def _truncate(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def _poison(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")


def _halve(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: t for name, t in tensors.items() if "lora_A" in name}, adapter / "adapter_model.safetensors")


DAMAGE = {
    "truncated": (_truncate, "corrupt"),
    "nan": (_poison, "not finite"),
    "half": (_halve, "lacks lora_A or lora_B"),
    "no weights": (lambda a: (a / "adapter_model.safetensors").unlink(), "Only safetensors"),
    "no json": (lambda a: (a / "adapter_config.json").write_text("{"), "no PEFT configuration"),
    "a list": (lambda a: (a / "adapter_config.json").write_text("[]"), "no PEFT configuration"),
    "rank zero": (lambda a: edit_config(a, r=0), "above zero"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_adapter_gives_one_clear_message_and_leaves_the_rest_working(
    tiny: Path, adapter: Path, tmp_path: Path, name: str
):
    damage, message = DAMAGE[name]
    shutil.copytree(tiny / "anchors/humor", tmp_path / "anchors/humor")
    damage(adapter)
    with pytest.raises(MixerError, match=message) as caught:
        load(tiny, adapter.parent)
    assert "\n" not in str(caught.value) and str(adapter) in str(caught.value) and caught.value.hint
    desk = load(tiny, adapter.parent, strict=False)
    assert list(desk.attributes) == ["humor"] and any(message in problem for problem in desk.problems)


def test_a_missing_folder_is_an_error_or_a_problem(tiny: Path, tmp_path: Path):
    with pytest.raises(BadArtifact, match="There is no folder"):
        load(tiny, tmp_path / "nowhere")
    assert load(tiny, tmp_path / "nowhere", strict=False).problems


def test_labels_and_description_come_from_the_yaml_beside_the_poles(tiny: Path, tmp_path: Path):
    home = Path(shutil.copytree(tiny / "anchors/formality", tmp_path / "anchors/dress"))
    assert load(tiny, home.parent).attributes["dress"].labels == ("less dress", "more dress")
    (home / "attribute.yaml").write_text("labels: {negative: informal, positive: formal}\ndescription: Dress code.\n")
    attribute = load(tiny, home.parent).attributes["dress"]
    assert attribute.labels == ("informal", "formal") and attribute.description == "Dress code."
    (home / "attribute.yaml").write_text("labels: [informal, formal]\n")
    with pytest.raises(BadArtifact, match=r"attribute\.yaml is not a description"):
        load(tiny, home.parent)
    desk = load(tiny, home.parent, strict=False)
    assert list(desk.attributes) == ["dress"], "a bad label must not cost the anchors"


def test_an_attribute_of_a_shipped_name_has_the_shipped_labels(tiny: Path):
    attribute = load(tiny, tiny / "anchors").attributes["formality"]
    assert attribute.labels == ("informal", "formal") and attribute.description


def test_the_config_that_peft_writes_is_the_one_that_is_read(adapter: Path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["use_dora"] is False
