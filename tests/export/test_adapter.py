"""An exported adapter is the mix, in plain peft and in this desk; a compressed one is within the bound it reports."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from mixer import Desk, export_adapter
from mixer.errors import InvalidValue
from mixer.export.factors import compress
from tests.export.parts import PROMPT, base_of, factors, mixes, with_peft
from tests.factory import TARGETS, make_adapter, make_base


def test_an_exact_adapter_is_the_mix_in_plain_peft(desk: Desk, tmp_path: Path):
    for number, mix in enumerate(mixes(desk)):
        export_adapter(desk, mix, tmp_path / str(number))
        expected = desk.logprobs(PROMPT, mix)
        assert float((with_peft(desk, tmp_path / str(number)) - expected).abs().max()) < 1e-4, str(mix)
        assert float((desk.logprobs(PROMPT) - expected).abs().max()) > 1e-3, "the mix must make a difference"


def test_an_export_is_an_anchor_that_this_desk_loads(desk: Desk, tmp_path: Path):
    mix = mixes(desk)[0]
    export_adapter(desk, mix, tmp_path / "anchors" / "blend")
    again = Desk.load(base_of(desk), tmp_path / "anchors", device="cpu")
    assert again.anchors == ("blend.positive",) and again.problems == ()
    assert torch.allclose(again.logprobs(PROMPT, again.mix(blend=1)), desk.logprobs(PROMPT, mix), atol=1e-4, rtol=0)


def test_the_files_say_what_they_hold(llama: Desk, tmp_path: Path):
    mix = llama.mix_from_coefficients({"formality.positive": -0.5, "humor.positive": 1.5, "humor.negative": 0.0})
    done = export_adapter(llama, mix, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in done.folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = peft.LoraConfig.from_pretrained(str(done.folder))
    assert isinstance(config, peft.LoraConfig)
    assert (config.r, config.lora_alpha, config.bias, config.use_rslora, config.use_dora) == (
        12,
        12,
        "none",
        False,
        False,
    )
    assert config.base_model_name_or_path == base_of(llama) and config.target_modules == set(TARGETS["llama"])
    ranks = config.rank_pattern or {}
    assert ranks == config.alpha_pattern and list(ranks.values()) == [9] * 12
    assert len(done.modules) == 14 and done.rank == 12
    with safe_open(done.folder / "adapter_model.safetensors", "pt") as file:
        metadata = file.metadata()
        assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in file.keys()  # noqa: SIM118
    assert metadata["mix_key"] == mix.key and json.loads(metadata["coefficients"]) == dict(mix.weights)
    export_adapter(llama, mix, tmp_path / "again")
    first, second = (folder / "adapter_config.json" for folder in (done.folder, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_factors_are_the_anchors_own_scaled_once_in_float32(llama: Desk, tmp_path: Path):
    mix = llama.mix_from_coefficients({"formality.negative": 0.3, "formality.positive": -1.7})
    parts = [adapter.parts for adapter in llama.anchor_set.adapters[:2]]
    for name, (a, b) in factors(export_adapter(llama, mix, tmp_path / "out").folder).items():
        own = [part[name] for part in parts]
        scaled = [part.b * (c * part.scaling) for part, c in zip(own, (0.3, -1.7), strict=True)]
        assert torch.equal(a.float(), torch.cat([part.a for part in own]))
        assert torch.equal(b.float(), torch.cat(scaled, dim=1))


def test_only_modules_that_a_live_anchor_adapts_are_written(llama: Desk, tmp_path: Path):
    done = export_adapter(llama, llama.mix_from_coefficients({"humor.negative": 2.0}), tmp_path / "out")
    assert [module.module for module in done.modules] == [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    assert json.loads((done.folder / "adapter_config.json").read_text())["target_modules"] == ["q_proj"]


def test_modules_that_share_a_name_with_others_are_listed_in_full(tmp_path: Path):
    base = make_base(tmp_path / "base")
    make_adapter(base, tmp_path / "anchors/one", target_modules=["model.layers.1.mlp.up_proj"])
    desk = Desk.load(base, tmp_path / "anchors", device="cpu")
    done = export_adapter(desk, desk.mix(one=-0.8), tmp_path / "out")
    config = json.loads((done.folder / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.mlp.up_proj"]
    assert torch.allclose(with_peft(desk, done.folder), desk.logprobs(PROMPT, desk.mix(one=-0.8)), atol=1e-4, rtol=0)


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.integers(1, 10))
def test_no_adapter_of_the_rank_is_closer(seed: int, rank: int, d_out: int, d_in: int, keep: int):
    """Eckart and Young: the singular values of the difference are those that were dropped."""
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, d_in, generator=rng), torch.randn(d_out, rank, generator=rng)
    small_a, small_b, kept, whole = compress(a, b, keep)
    delta = b.double() @ a.double()
    sigma = torch.linalg.svdvals(delta)
    error = torch.linalg.svdvals(delta - small_b.double() @ small_a.double())
    dropped = sigma[keep:].tolist() + [0.0] * min(keep, len(sigma))
    assert torch.allclose(error, torch.tensor(dropped, dtype=torch.float64), atol=1e-9)
    assert len(small_a) <= min(keep, rank) and small_b.shape == (d_out, len(small_a))
    assert kept == pytest.approx(float(sigma[:keep].square().sum()))
    assert whole == pytest.approx(float(delta.square().sum()))
    if keep >= rank:
        assert torch.equal(small_a, a) and torch.equal(small_b, b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rank", [None, 1, 4, 9, 50])
def test_a_written_adapter_is_within_its_printed_bound(llama: Desk, tmp_path: Path, rank: int | None, dtype: str):
    mix = llama.mix_from_coefficients({"formality.positive": 0.9, "humor.positive": -1.2, "humor.negative": 1.1})
    exact = factors(export_adapter(llama, mix, tmp_path / "exact").folder)
    done = export_adapter(llama, mix, tmp_path / "small", rank, dtype)
    small = factors(done.folder)
    rng = torch.Generator().manual_seed(3)
    for module in done.modules:
        a, b = exact[module.module]
        small_a, small_b = small[module.module]
        x = torch.randn(a.shape[1], 50, generator=rng, dtype=torch.float64)
        difference = b @ (a @ x) - small_b @ (small_a @ x)
        assert bool((difference.norm(dim=0) <= module.spectral * x.norm(dim=0) * (1 + 1e-9)).all())
        error = torch.linalg.svdvals(b @ a - small_b @ small_a)
        assert module.spectral == pytest.approx(float(error[0]), abs=1e-9)
        assert module.frobenius == pytest.approx(float(error.norm()), abs=1e-9)
        sigma = torch.linalg.svdvals(b @ a)
        assert len(small_a) == module.rank == min(rank or 99, module.full) and module.full == len(a)
        assert module.energy == pytest.approx(float(sigma[: module.rank].square().sum() / sigma.square().sum()))
        if dtype == "float32":
            first = float(sigma[module.rank]) if module.rank < len(a) else 0.0
            assert module.spectral == pytest.approx(first, abs=1e-5)
    lossless = rank is None or rank >= 50
    assert (done.energy == 1.0) == lossless
    if lossless and dtype == "float32":
        assert all(module.spectral == 0.0 for module in done.modules)
        assert torch.allclose(with_peft(llama, done.folder), llama.logprobs(PROMPT, mix), atol=1e-4, rtol=0)


def test_a_rank_that_holds_the_whole_delta_loses_nothing_though_it_is_below_the_anchors_sum(tmp_path: Path):
    base = make_base(tmp_path / "base")
    for pole, seed in (("negative", 1), ("positive", 2)):
        make_adapter(base, tmp_path / "anchors" / "one" / pole, seed=seed, r=20)
    desk = Desk.load(base, tmp_path / "anchors", device="cpu")
    mix = desk.mix_from_coefficients({"one.negative": 0.2, "one.positive": -0.3})
    done = export_adapter(desk, mix, tmp_path / "out", rank=32)  # the model is 32 wide
    assert done.energy == pytest.approx(1) and {module.full for module in done.modules} == {40} and done.rank == 32
    assert torch.allclose(with_peft(desk, done.folder), desk.logprobs(PROMPT, mix), atol=1e-4, rtol=0)


def test_more_rank_keeps_more_and_the_table_shows_it(llama: Desk, tmp_path: Path):
    mix = mixes(llama)[2]
    done = [export_adapter(llama, mix, tmp_path / str(rank), rank) for rank in (1, 2, 4, 8)]
    assert [one.energy for one in done] == sorted(one.energy for one in done)
    assert [one.size for one in done] == sorted(one.size for one in done)
    lines = done[0].table().splitlines()
    assert len(lines) == len(done[0].modules) + 2 and "energy" in lines[0]
    assert f"{done[0].modules[0].energy:.4f}" in lines[1] and f"{done[0].energy:.4f}" in lines[-1]
    assert json.loads(json.dumps(done[0].to_dict()))["modules"][0]["rank"] == 1


@pytest.mark.parametrize("rank", [0, -1, 1.5, "8", True])
def test_a_rank_that_is_none_is_refused(llama: Desk, tmp_path: Path, rank):
    with pytest.raises(InvalidValue, match="rank must be a whole number above zero"):
        export_adapter(llama, mixes(llama)[0], tmp_path / "out", rank)
