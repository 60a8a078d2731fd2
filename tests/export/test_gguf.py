"""Laws of GGUF files: llama.cpp computes with them what the desk computes, for the base and for any mix."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from mixer import Desk, Mix
from mixer.cli import main
from mixer.errors import BadArtifact, InvalidValue, Unsupported
from tests.factory import SHAPE, VOCAB, byte_tokenizer, make_adapter, make_base, make_desk_folders

pytest.importorskip("gguf")

from mixer.export.gguf import export_gguf_base, export_gguf_lora, interleaved

installed = importlib.util.find_spec("llama_cpp") is not None
needs_llama = pytest.mark.skipif(not installed, reason="llama-cpp-python is not installed")
PROMPT = "Dear neighbor, it is 7 o'clock"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Fewer key heads than query heads, an untied output head, biases, and anchors of different ranks."""
    root = tmp_path_factory.mktemp("gguf")
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPE, num_key_value_heads=2, attention_bias=True, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(4) if weight.ndim == 2 else weight.normal_(1 if "norm" in name else 0, 0.2)
    model.save_pretrained(root / "base")
    byte_tokenizer().save_pretrained(root / "base")
    make_adapter(root / "base", root / "anchors" / "formality" / "negative", seed=1)
    make_adapter(root / "base", root / "anchors" / "formality" / "positive", seed=2, use_rslora=True)
    make_adapter(root / "base", root / "anchors" / "humor" / "positive", seed=3, r=2, target_modules=["q_proj"])
    adapt_head(make_adapter(root / "base", root / "anchors" / "poetry" / "positive", seed=4, target_modules=["k_proj"]))
    return Desk.load(root / "base", root / "anchors", device="cpu")


@pytest.fixture(scope="module")
def files(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base and every anchor alone."""
    root = tmp_path_factory.mktemp("files")
    written = {"base": export_gguf_base(desk, root / "base.gguf")}
    for name in desk.anchors:
        mix = desk.mix_from_coefficients({name: 1.0})
        written[name] = export_gguf_lora(desk, mix, root / f"{name}.gguf")
    return written


def adapt_head(adapter: Path) -> None:
    """Make an adapter adapt the output head too; peft itself would save the whole head with it."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    rank = next(iter(tensors.values())).shape[0]
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.randn(rank, SHAPE["hidden_size"]) / 8
    tensors["base_model.model.lm_head.lora_B.weight"] = torch.randn(VOCAB, rank) / 8
    save_file(tensors, adapter / "adapter_model.safetensors")


def logprobs(runtime, ids: list[int]) -> torch.Tensor:
    return torch.log_softmax(torch.from_numpy(runtime.prefill(ids).copy()), dim=-1)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_rows_change_places_so_that_both_kinds_of_rotation_agree(heads: int, half: int, seed: int):
    """Reordering and then rotating neighboring pairs is the same as rotating halves and then reordering."""
    x = torch.randn(heads * 2 * half, generator=torch.Generator().manual_seed(seed))
    angle = torch.linspace(0, 3, half)
    cos, sin = angle.cos(), angle.sin()
    rows = x.view(1, heads, 1, 2 * half)
    halves, _ = apply_rotary_pos_emb(rows, rows, cos.repeat(1, 1, 2), sin.repeat(1, 1, 2))
    pairs = interleaved(x, heads).view(heads, half, 2)
    turned = torch.stack([pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 1] * cos + pairs[..., 0] * sin], -1)
    assert torch.allclose(interleaved(halves.flatten(), heads), turned.flatten(), atol=1e-6)


@needs_llama
@pytest.mark.parametrize("seed", range(4))
def test_llama_cpp_agrees_with_the_desk_at_any_coefficients(desk: Desk, files: dict[str, Path], seed: int):
    from bench.harness.llama_cpp import LlamaCpp

    runtime = LlamaCpp(files["base"], [files[name] for name in desk.anchors], context=64)
    rng = random.Random(seed)
    scales = [rng.uniform(-1.5, 1.5) if seed else 0.0 for _ in desk.anchors]
    runtime.set_scales(scales)
    mix = desk.mix_from_coefficients(dict(zip(desk.anchors, scales, strict=True)))
    found = logprobs(runtime, desk.tokenizer(PROMPT).input_ids)
    runtime.close()
    assert torch.allclose(found, desk.logprobs(PROMPT, mix), atol=1e-3, rtol=0)


@needs_llama
def test_one_file_holds_a_whole_mix(desk: Desk, files: dict[str, Path], tmp_path: Path):
    from bench.harness.llama_cpp import LlamaCpp

    mix = desk.mix(formality=-0.7, humor=1.3, poetry=-0.5)
    runtime = LlamaCpp(files["base"], [export_gguf_lora(desk, mix, tmp_path / "mix.gguf")], context=64)
    base, ids = logprobs(runtime, desk.tokenizer(PROMPT).input_ids), desk.tokenizer(PROMPT).input_ids
    runtime.set_scales([1.0])
    found = logprobs(runtime, ids)
    runtime.close()
    assert torch.allclose(base, desk.logprobs(PROMPT), atol=1e-3, rtol=0)
    assert torch.allclose(found, desk.logprobs(PROMPT, mix), atol=1e-3, rtol=0)
    assert not torch.allclose(found, base, atol=0.05, rtol=0)


@needs_llama
def test_what_ships_agrees_and_is_tokenized_alike(tmp_path: Path):
    from bench.harness.llama_cpp import LlamaCpp

    desk = Desk.load(device="cpu", dtype="float32")
    base = export_gguf_base(desk, tmp_path / "base.gguf", "bfloat16")  # in which it is stored
    assert base.stat().st_size < 30 * 2**20
    adapters = []
    for name in desk.anchors:
        mix = desk.mix_from_coefficients({name: 1.0})
        adapters.append(export_gguf_lora(desk, mix, tmp_path / f"{name}.gguf"))
    exact = LlamaCpp(export_gguf_base(desk, tmp_path / "exact.gguf"), adapters)
    rounded = LlamaCpp(base, adapters)
    for text in ("In 1999, the 12 men (who'd waited) said: don't!\n\n  They'll see — naïve café 3.14 …", PROMPT):
        ids = desk.tokenizer(text).input_ids
        assert exact.tokenize(text) == ids
        rng = random.Random(len(text))
        scales = [rng.uniform(-1.5, 1.5) for _ in desk.anchors]
        expected = desk.logprobs(text, desk.mix_from_coefficients(dict(zip(desk.anchors, scales, strict=True))))
        for runtime, tolerance in ((exact, 1e-3), (rounded, 0.2)):
            runtime.set_scales(scales)
            assert torch.allclose(logprobs(runtime, ids), expected, atol=tolerance, rtol=0)
    exact.close()
    rounded.close()


@needs_llama
def test_llama_cpp_writes_on_greedily_as_the_desk_does(desk: Desk, files: dict[str, Path]):
    from bench.harness.llama_cpp import LlamaCpp, LlamaCppSettings
    from mixer import SamplingParams

    params = SamplingParams(max_new_tokens=20, min_new_tokens=20, temperature=0)
    expected = list(desk.generate(PROMPT, params=params).token_ids)
    runtime = LlamaCpp(files["base"], context=64)
    for knobs in (LlamaCppSettings(), LlamaCppSettings(2)):
        runtime.use(knobs)
        first = int(runtime.prefill(desk.tokenizer(PROMPT).input_ids).argmax())
        steps = runtime.steps(first)
        assert [first, *(next(steps) for _ in range(19))] == expected
    runtime.close()


@pytest.mark.parametrize("kind", ["qwen", "gpt2", "mistral"])
def test_a_base_that_llama_cpp_would_run_wrongly_is_refused(tmp_path: Path, kind: str):
    base = make_base(tmp_path / "base", kind)
    with pytest.raises(Unsupported, match="cannot be written as GGUF"):
        export_gguf_base(base, tmp_path / "base.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_bad_requests_are_refused(desk: Desk, tmp_path: Path, tiny: Path):
    with pytest.raises(InvalidValue, match="is the base model"):
        export_gguf_lora(desk, Mix(), tmp_path / "mix.gguf")
    with pytest.raises(InvalidValue, match="no dtype 'int3'"):
        export_gguf_base(desk, tmp_path / "base.gguf", "int3")
    with pytest.raises(BadArtifact, match="cannot be written"):
        export_gguf_base(desk, tmp_path)
    root = make_desk_folders(tmp_path / "tied", attributes=("formality",))
    adapt_head(make_adapter(root / "base", root / "anchors" / "poetry", target_modules=["k_proj"]))
    tied = Desk.load(root / "base", root / "anchors", device="cpu")
    with pytest.raises(Unsupported, match="shares with its embedding"):
        export_gguf_lora(tied, tied.mix(poetry=1), tmp_path / "mix.gguf")


def test_the_command_line_writes_both(tiny: Path, tmp_path: Path, capsys):
    desk = ["--base", str(tiny / "base"), "--anchors", str(tiny / "anchors")]
    assert main(["gguf", "base", str(tmp_path / "base.gguf"), *desk]) == 0
    words = ["--set", "formality=0.8", "--anchor", "humor.negative=-0.5", "--dtype", "bfloat16"]
    assert main(["gguf", "lora", str(tmp_path / "sub" / "mix.gguf"), *words, *desk]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "base.gguf"), str(tmp_path / "sub" / "mix.gguf")]
    assert main(["gguf", "lora", str(tmp_path / "mix.gguf"), *desk]) == 2
    assert "Move a slider" in capsys.readouterr().err
