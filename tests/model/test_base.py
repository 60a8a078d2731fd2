"""Loading: names and devices that are refused, bases that are stored quantized, and what is printed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from mixer import Desk
from mixer.cli import main
from mixer.errors import BadArtifact, InvalidValue, UnknownName, Unsupported
from mixer.model.base import SCHEMES, is_quantized, load_base, local_folder, pick_device, pick_dtype

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def stored_as(tiny: Path, folder: Path, **quantization) -> Path:
    """A copy of the tiny base whose configuration says that it is stored quantized."""
    base = Path(shutil.copytree(tiny / "base", folder / "stored"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return base


def test_devices_and_dtypes_by_name():
    assert pick_device("cpu") == CPU and pick_device().type in ("cpu", "cuda", "mps")
    assert pick_dtype("auto", CPU) is torch.float32 and pick_dtype("auto", CPU, "nf4") is torch.bfloat16
    assert pick_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert pick_dtype("float16", CPU, "nf4") is torch.float16
    with pytest.raises(InvalidValue, match="no dtype 'int4'"):
        pick_dtype("int4", CPU)
    with pytest.raises(InvalidValue, match="'toaster' cannot be used"):
        pick_device("toaster")


def test_unknown_schemes_and_maps_get_the_nearest(tiny: Path):
    with pytest.raises(UnknownName, match=r"no quantization called 'int4'. Did you mean int8"):
        Desk.load(tiny / "base", tiny / "anchors", quantize="int4")
    with pytest.raises(UnknownName, match=r"no device map called 'autp'. Did you mean auto"):
        Desk.load(tiny / "base", tiny / "anchors", device_map="autp")
    with pytest.raises(InvalidValue, match="exclude each other"):
        Desk.load(tiny / "base", tiny / "anchors", device="cpu", device_map="auto")


def test_the_doors_pass_scheme_and_map_on(tiny: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--base", str(tiny / "base"), "--anchors", str(tiny / "anchors")]
    assert main(["attributes", *words, "--quantize", "int8", "--device-map", "auto"]) == 0
    for door in (lambda bad: main(["attributes", *words, *bad]), lambda bad: main(["page", *words, *bad])):
        for option, name in (("--quantize", "int4"), ("--device-map", "autp")):
            assert door([option, name]) == 2
            assert f"called '{name}'" in capsys.readouterr().err


def test_without_bitsandbytes_the_remedy_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(Unsupported, match="pip install bitsandbytes"):
        load_base(str(tiny / "base"), CPU, torch.float32, "nf4")


def test_a_device_map_changes_no_number(tiny: Path):
    plain = Desk.load(tiny / "base", tiny / "anchors")
    for spread in ("auto", {"": str(plain.base_model.device)}):
        desk = Desk.load(tiny / "base", tiny / "anchors", device_map=spread)
        mix = desk.mix(formality=1)
        assert torch.equal(desk.logprobs("Dear", mix), plain.logprobs("Dear", mix))


def test_a_base_that_does_not_fit_is_refused(tiny: Path):
    places = dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "model.layers.0", "lm_head"], "cpu")
    with pytest.raises(Unsupported, match="does not fit into the memory of cpu"):
        load_base(str(tiny / "base"), CPU, torch.float32, device_map=places | {"model.layers.1": "disk"})


@pytest.mark.skipif(importlib.util.find_spec("optimum") is not None, reason="what is tested is that it is missing")
def test_a_base_stored_in_a_format_whose_package_is_missing_says_which(tiny: Path, tmp_path: Path):
    base = stored_as(tiny, tmp_path, quant_method="gptq", bits=4, group_size=128)
    with pytest.raises(Unsupported, match="optimum"):
        load_base(str(base), CPU, torch.float32)


def test_a_base_stored_in_another_format_is_not_quantized_again(tiny: Path, tmp_path: Path):
    base = stored_as(tiny, tmp_path, quant_method="awq", bits=4)
    with pytest.raises(InvalidValue, match=r"stored quantized already \(awq\)"):
        load_base(str(base), CPU, torch.float32, "nf4")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_base_stored_quantized_loads_as_it_is(tiny: Path, tmp_path: Path, scheme: str):
    lm, tokenizer = load_base(str(tiny / "base"), CPU, torch.float32, scheme)
    lm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = torch.tensor([[3, 14, 15, 92]])
    with torch.no_grad():
        expected = lm(ids).logits
        for again in (None, scheme):
            stored, _ = load_base(str(tmp_path), CPU, torch.float32, again)
            assert is_quantized(stored) == scheme
            assert torch.equal(stored(ids).logits, expected)
    other = next(name for name in SCHEMES if name != scheme)
    with pytest.raises(InvalidValue, match=f"stored quantized already .{scheme}"):
        load_base(str(tmp_path), CPU, torch.float32, other)


def test_a_plain_model_is_not_quantized(tiny: Path):
    assert is_quantized(AutoModelForCausalLM.from_pretrained(tiny / "base")) is None
    assert is_quantized(nn.Linear(2, 2)) is None and is_quantized(nn.Sequential()) is None


def test_a_folder_that_is_nowhere_is_named(tmp_path: Path):
    assert local_folder(str(tmp_path)) == tmp_path
    with pytest.raises(BadArtifact, match="no folder"):
        local_folder(str(tmp_path / "none"))


@pytest.mark.slow
def test_bitsandbytes_writes_nothing_on_the_screen(tiny: Path):
    code = (
        "import sys\nfrom mixer import Desk\n"
        "Desk.load(sys.argv[1], sys.argv[2], device='cpu', quantize='int8').generate('Dear')\n"
        "assert 'bitsandbytes' in sys.modules"
    )
    words = [sys.executable, "-c", code, str(tiny / "base"), str(tiny / "anchors")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout and "gemm" not in done.stderr and "MatMul8bitLt" not in done.stderr
