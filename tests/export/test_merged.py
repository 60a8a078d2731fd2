"""A merged model is the mix in plain `transformers`, rounded once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from mixer import Desk, export_adapter, export_merged
from mixer.adapters.fingerprint import base_fingerprint
from mixer.errors import BadArtifact
from tests.export.parts import KINDS, PROMPT, ids, logprobs, mixes, with_peft
from tests.factory import TARGETS, make_adapter, make_base, make_desk_folders


def test_a_merged_model_is_the_mix_in_plain_transformers(desk: Desk, tmp_path: Path):
    for mix in mixes(desk):
        folder = export_merged(desk, mix, tmp_path / "out", overwrite=True)
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert float((logprobs(model, desk) - desk.logprobs(PROMPT, mix)).abs().max()) < 1e-4, str(mix)
        assert AutoTokenizer.from_pretrained(folder)(PROMPT).input_ids == ids(desk)[0].tolist()


def test_generation_settings_and_chat_template_come_along(tmp_path: Path):
    root = make_desk_folders(tmp_path, attributes=("formality",))
    settings = {"eos_token_id": [0, 5], "do_sample": False, "temperature": 0.6}  # as some bases have it
    (root / "base" / "generation_config.json").write_text(json.dumps(settings))
    (root / "base" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    desk = Desk.load(root / "base", root / "anchors", device="cpu")
    folder = export_merged(desk, desk.mix(formality=1), tmp_path / "out")
    assert json.loads((folder / "generation_config.json").read_text()).items() >= settings.items()
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{{ messages[0].content }}"


def test_a_merged_weight_is_rounded_once(llama: Desk, tmp_path: Path):
    mix = llama.mix_from_coefficients({"formality.positive": 0.9, "humor.positive": -1.2})
    written = load_file(export_merged(llama, mix, tmp_path / "out", "bfloat16") / "model.safetensors")
    for name, weight in llama.base_model.state_dict().items():
        if name == "lm_head.weight":  # tied, so it is not in the file
            continue
        exact = weight.double()
        for adapter, c in zip(llama.anchor_set.adapters, mix.coefficients(llama.anchors), strict=True):
            if part := adapter.parts.get(name.removesuffix(".weight")):
                exact = exact + c * part.scaling * (part.b.double() @ part.a.double())
        same = written[name] == exact.to(torch.bfloat16)
        # The sums are float32: in rare close cases they are rounded the other way.
        assert written[name].dtype == torch.bfloat16 and float(same.float().mean()) > 0.998, name


def test_a_head_tied_to_the_embedding_stays_tied(llama: Desk, tmp_path: Path):
    folder = export_merged(llama, mixes(llama)[0], tmp_path / "out")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight


# Warnings of peft about an adapted head, and about a Linear module besides a Conv1D.
@pytest.mark.filterwarnings("ignore:(?s).*(tie_word_embeddings|save_embedding_layers|fan_in_fan_out):UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_head_is_untied_and_exported_too(tmp_path: Path, kind: str):
    base = make_base(tmp_path / "base", kind)
    make_adapter(base, tmp_path / "anchors/one", kind, target_modules=["lm_head", TARGETS[kind][0]])
    file = tmp_path / "anchors/one/adapter_model.safetensors"
    # As peft itself does with save_embedding_layers=False: leave out the whole head.
    save_file({name: tensor for name, tensor in load_file(file).items() if ".lora_" in name}, file)
    desk = Desk.load(base, tmp_path / "anchors", device="cpu")
    mix = desk.mix(one=-0.8)
    model = AutoModelForCausalLM.from_pretrained(export_merged(desk, mix, tmp_path / "merged"))
    assert torch.allclose(logprobs(model, desk), desk.logprobs(PROMPT, mix), atol=1e-4, rtol=0)
    assert base_fingerprint(model) == base_fingerprint(desk.base_model), "the embedding must not change with the head"
    done = export_adapter(desk, mix, tmp_path / "adapter")
    assert torch.allclose(with_peft(desk, done.folder), desk.logprobs(PROMPT, mix), atol=1e-4, rtol=0)
    config = json.loads((done.folder / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] == any(isinstance(module, Conv1D) for module in model.modules())


def test_the_manifest_names_what_the_model_was_made_from(llama: Desk, tmp_path: Path):
    mix = llama.mix_from_coefficients({"formality.negative": 0.25, "poetry.negative": 2})
    record = json.loads((export_merged(llama, mix, tmp_path / "out", "float16") / "manifest.json").read_text())
    assert record["base"] == "base" and record["base_fingerprint"] == base_fingerprint(llama.base_model)
    assert record["mix"] == "+0.25*formality.negative, +2.00*poetry.negative" and record["mix_key"] == mix.key
    # Poetry has a positive anchor alone: the other pole is its negative.
    made = {name: adapter["coefficient"] for name, adapter in record["adapters"].items()}
    assert made == {"formality.negative": 0.25, "poetry.positive": -2}
    for adapter in llama.anchor_set.adapters:
        if adapter.anchor.name in made:
            file = Path(adapter.anchor.path) / "adapter_model.safetensors"
            assert record["adapters"][adapter.anchor.name]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert record["dtype"] == config["dtype"] == "float16"


def test_an_anchor_whose_file_has_gone_is_named(tmp_path: Path):
    root = make_desk_folders(tmp_path, attributes=("formality",))
    desk = Desk.load(root / "base", root / "anchors", device="cpu")
    (root / "anchors/formality/positive/adapter_model.safetensors").unlink()
    export_merged(desk, desk.mix(formality=-1), tmp_path / "fine")
    with pytest.raises(BadArtifact, match=r"positive/adapter_model\.safetensors has gone"):
        export_merged(desk, desk.mix(formality=1), tmp_path / "out")
