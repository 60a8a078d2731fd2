"""Laws of all exports: the base does not change, no file is lost by accident, and bad requests are refused early."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mixer import Desk, Mix, export_adapter, export_merged
from mixer.errors import BadArtifact, InvalidValue, UnknownName, Unsupported
from tests.export.parts import PROMPT, base_of, factors, mixes
from tests.factory import make_desk_folders


def weights_hash(desk: Desk) -> str:
    digest = hashlib.sha256()
    for name, tensor in desk.base_model.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_exports_leave_the_resident_model_as_it_was(desk: Desk, tmp_path: Path):
    mix = mixes(desk)[1]
    before, config, text = weights_hash(desk), desk.base_model.config.to_dict(), desk.logprobs(PROMPT, mix)
    export_adapter(desk, mix, tmp_path / "adapter", rank=2)
    export_merged(desk, mix, tmp_path / "merged", dtype="bfloat16")
    export_merged(desk, mix, tmp_path / "merged", overwrite=True)
    assert weights_hash(desk) == before and desk.base_model.config.to_dict() == config
    assert torch.equal(desk.logprobs(PROMPT, mix), text)


def test_the_base_as_a_mix_has_no_adapter_and_merges_to_itself(llama: Desk, tmp_path: Path):
    for mix in (Mix(), llama.mix(formality=0), mixes(llama)[0] * 0):
        with pytest.raises(InvalidValue, match="The mix is the base model: there is no adapter"):
            export_adapter(llama, mix, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    written = load_file(export_merged(llama, Mix(), tmp_path / "merged") / "model.safetensors")
    weights = llama.base_model.state_dict()
    assert set(weights) - set(written) == {"lm_head.weight"}
    assert all(torch.equal(weights[name], weight) for name, weight in written.items())
    assert json.loads((tmp_path / "merged" / "manifest.json").read_text())["mix"] == "base"


def test_a_quantized_base_gives_the_same_adapter_and_no_merged_model(tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    root = make_desk_folders(tmp_path)
    desk, plain = (
        Desk.load(root / "base", root / "anchors", device="cpu", dtype="bfloat16", quantize=scheme)
        for scheme in ("nf4", None)
    )
    mix = desk.mix(formality=0.7, humor=-1.2)
    with pytest.raises(Unsupported, match=r"quantized \(nf4\): W0 is gone"):
        export_merged(desk, mix, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    quantized, exact = (
        factors(export_adapter(one, mix, tmp_path / name).folder)
        for one, name in ((desk, "quantized"), (plain, "plain"))
    )
    assert quantized.keys() == exact.keys()
    for name, (a, b) in quantized.items():
        assert torch.equal(a, exact[name][0]) and torch.equal(b, exact[name][1])


@pytest.mark.parametrize(
    ("export", "foreign"), [(export_adapter, "config.json"), (export_merged, "adapter_config.json")]
)
def test_a_folder_s_files_are_replaced_only_on_demand(llama: Desk, tmp_path: Path, export, foreign: str):
    (mix, other), folder = mixes(llama)[:2], tmp_path / "out"
    folder.mkdir()
    export(llama, mix, folder)  # an empty folder is accepted
    (folder / "note.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(InvalidValue, match="is not empty"):
        export(llama, other, folder)
    assert contents(folder) == before
    export(llama, other, folder, overwrite=True)
    after = contents(folder)
    assert after.keys() == before.keys() and after["note.txt"] == b"mine" and after != before
    # Adapter and merged model in one folder would load as their sum.
    (folder / ("config.json" if export is export_adapter else "adapter_config.json")).write_text("{}")
    with pytest.raises(InvalidValue, match="another kind"):
        export(llama, mix, folder, overwrite=True)
    for home in (base_of(llama), llama.anchor_set.adapters[0].anchor.path):
        with pytest.raises(InvalidValue, match="the base or an anchor of this desk"):
            export(llama, mix, home, overwrite=True)


@pytest.mark.parametrize("export", [export_adapter, export_merged])
def test_what_cannot_be_written_is_refused_and_leaves_nothing_behind(llama: Desk, tmp_path: Path, export):
    mix = mixes(llama)[0]
    with pytest.raises(InvalidValue, match="no dtype 'int3'"):
        export(llama, mix, tmp_path / "out", dtype="int3")
    with pytest.raises(UnknownName, match=r"charm\.positive"):
        export(llama, Mix(raw={"charm.positive": 1.0}), tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValue, match="is a file"):
        export(llama, mix, tmp_path / "file", overwrite=True)
    with pytest.raises(BadArtifact, match="cannot be written"):
        export(llama, mix, tmp_path / "file" / "below")
    with pytest.raises(InvalidValue, match="no name of a folder"):
        export(llama, mix, "a\0b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_numbers_too_large_for_the_dtype_are_refused(tmp_path: Path):
    root = make_desk_folders(tmp_path, attributes=("formality",))
    desk = Desk.load(root / "base", root / "anchors", device="cpu")
    for adapter in desk.anchor_set.adapters:
        for part in adapter.parts.values():
            part.b.mul_(1e5)
    for export in (export_adapter, export_merged):
        with pytest.raises(InvalidValue, match="too large for float16"):
            export(desk, desk.mix(formality=3), tmp_path / "out", dtype="float16")
        export(desk, desk.mix(formality=3), tmp_path / export.__name__, dtype="bfloat16")
    assert not (tmp_path / "out").exists()
