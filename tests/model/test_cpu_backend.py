"""Which models the compiled backend runs: those whose logits it gets right; others get a reason and their own code."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from mixer.adapters.anchor_set import AnchorSet
from mixer.adapters.low_rank import LowRank
from mixer.kernels.simd import PANEL
from mixer.model.cpu_backend import CpuBackend, unsupported
from mixer.model.model import Model
from mixer.model.torch_backend import TorchBackend
from tests.factory import byte_tokenizer
from tests.kernels.parts import CONFIGS, SHAPE, VOCAB, make_model, merged, plain_logits, random_parts

IDS = torch.randint(VOCAB, (150,), generator=torch.Generator().manual_seed(5)).tolist()
MIX = (0.7, -1.5, 0.3)
ROPE = {"rope_theta": 10_000.0, "factor": 4.0}
LLAMA_3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHORT = {"original_max_position_embeddings": 64}


def llama(**options: Any) -> LlamaConfig:
    full: dict[str, Any] = SHAPE | {"num_key_value_heads": 3} | options
    return LlamaConfig(**full)


def mistral(**options: Any) -> MistralConfig:
    return MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=8, **options)


def logits(model: PreTrainedModel, parts: list[dict[str, LowRank]], mix: tuple[float, ...]) -> torch.Tensor:
    backend = CpuBackend(model, parts, rows=1, threads=1)
    backend.reserve(1, len(IDS))
    backend.gate[0] = mix
    return backend.forward(IDS, [0] * len(IDS), range(len(IDS)), range(len(IDS)))


@pytest.mark.parametrize(
    "config",
    [
        llama(rope_parameters=ROPE | {"rope_type": "linear"}),
        llama(rope_parameters=ROPE | LLAMA_3 | SHORT),
        llama(rope_parameters=ROPE | {"rope_type": "yarn"} | SHORT),
        llama(rms_norm_eps=0.1),
        llama(head_dim=24),
        llama(
            hidden_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            intermediate_size=128,
            vocab_size=320,
        ),
        Qwen2Config(**SHAPE, num_key_value_heads=1, sliding_window=8, use_sliding_window=True, max_window_layers=1),
    ],
    ids=["linear", "llama3", "yarn", "eps", "heads apart from hidden", "multiples of 64", "some layers with windows"],
)
def test_what_it_runs_it_runs_right(config: PretrainedConfig):
    model = make_model(config)
    parts = random_parts(model, 3)
    assert unsupported(model, parts) is None
    for mix in ((0.0, 0.0, 0.0), MIX):
        expected = plain_logits(merged(model, parts, mix), IDS)
        assert torch.allclose(logits(model, parts, mix).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "config",
    [llama(sliding_window=8), mistral(layer_types=["full_attention"] * 2)],
    ids=["llama", "mistral"],
)
def test_windows_are_those_that_the_model_s_own_code_has(config: PretrainedConfig):
    model = make_model(config)
    expected = plain_logits(copy.deepcopy(model).double(), IDS)
    assert unsupported(model, []) or torch.allclose(logits(model, [], ()).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("targets", [("v_proj",), ("k_proj", "o_proj"), ("up_proj",), ("down_proj", "q_proj")])
def test_adapters_may_leave_modules_and_layers_out(targets: tuple[str, ...]):
    model = make_model("qwen")
    parts = random_parts(model, 3, targets)
    parts[1] = {name: part for name, part in parts[1].items() if ".1." in name}
    expected = plain_logits(merged(model, parts, MIX), IDS)
    assert torch.allclose(logits(model, parts, MIX).double(), expected, atol=1e-5, rtol=0)


def test_a_model_without_anchors_is_run():
    model = make_model("llama")
    assert torch.allclose(logits(model, [], ()).double(), plain_logits(model.double(), IDS), atol=1e-5, rtol=0)


def test_the_model_s_own_weights_stay_as_they_are():
    model = make_model("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    parts = random_parts(model, 3)
    logits(model, parts, MIX)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("kind", CONFIGS)
def test_bfloat16_weights_lose_nothing_more(kind: str):
    """Sums are float32: logits are those of the rounded weights; bfloat16 sums have a thousand times the error."""
    model = make_model(kind, torch.bfloat16)
    parts = random_parts(model, 3)
    assert unsupported(model, parts) is None
    expected = plain_logits(copy.deepcopy(model).double(), IDS)
    error = (logits(model, parts, (0.0, 0.0, 0.0)).double() - expected).abs().max()
    own_error = (plain_logits(model, IDS).double() - expected).abs().max()
    assert error < 1e-5 and error < 0.01 * own_error
    rounded = [
        {
            name: LowRank(part.a.bfloat16().float(), (part.b * part.scaling).bfloat16().float(), 1.0)
            for name, part in own.items()
        }
        for own in parts
    ]
    mixed = plain_logits(merged(model, rounded, MIX), IDS)
    assert torch.allclose(logits(model, parts, MIX).double(), mixed, atol=1e-5, rtol=0)


def test_adapters_that_bfloat16_holds_are_exact_beside_float32_weights():
    model = make_model("llama")
    parts = [
        {name: LowRank(part.a.bfloat16(), part.b.bfloat16(), 0.5) for name, part in own.items()}
        for own in random_parts(model, 3)
    ]
    expected = plain_logits(merged(model, parts, MIX), IDS)
    assert torch.allclose(logits(model, parts, MIX).double(), expected, atol=1e-5, rtol=0)


class Halved(nn.Linear):
    """A replaced module."""


def replaced() -> PreTrainedModel:
    model = make_model("llama")
    layer = model.get_submodule("model.layers.0.mlp")
    layer.up_proj = Halved(SHAPE["hidden_size"], SHAPE["intermediate_size"], bias=False)
    return model


def elsewhere() -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIGS["llama"])


GPT2 = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: make_model(GPT2), "gpt2"),
        (lambda: make_model("llama", torch.float16), "float16"),
        (lambda: make_model(llama(rope_parameters=ROPE | {"rope_type": "dynamic"})), "length"),
        (lambda: make_model(llama(hidden_act="gelu")), "gelu"),
        (lambda: make_model(llama(mlp_bias=True)), "bias"),
        (lambda: make_model(llama(attention_bias=True)), "bias"),
        (lambda: make_model(llama(hidden_size=36, head_dim=8)), "16"),
        (lambda: make_model(llama(intermediate_size=90)), "16"),
        (replaced, "replaced"),
        (elsewhere, "CPU"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_it_cannot_run_is_refused_with_a_reason(model, reason: str):
    assert reason in (unsupported(model(), []) or "")


def test_an_adapter_where_it_has_no_place_is_refused_with_a_reason():
    model = make_model("llama")
    part = LowRank(torch.zeros(2, SHAPE["hidden_size"]), torch.zeros(VOCAB, 2), 1.0)
    assert "lm_head" in (unsupported(model, [*random_parts(model, 1), {"lm_head": part}]) or "")


@pytest.mark.parametrize("config", [GPT2, llama(rope_parameters=ROPE | {"rope_type": "dynamic"})], ids=["gpt2", "rope"])
def test_a_model_falls_back_to_its_own_code_and_says_why(config: PretrainedConfig):
    lm = make_model(config)
    model = Model(lm, byte_tokenizer(), AnchorSet({}, (), ()))
    assert isinstance(model.backend, TorchBackend) and model.native_refusal
    expected = plain_logits(lm, IDS[:30])[-1]
    assert torch.allclose(model.logits(IDS[:30], ()), expected, atol=1e-5, rtol=0)


def test_a_model_that_fits_says_nothing():
    model = Model(make_model("qwen"), byte_tokenizer(), AnchorSet({}, (), ()))
    assert isinstance(model.backend, CpuBackend) and model.native_refusal is None
    assert model.wants_native
    other = Model(make_model("qwen"), byte_tokenizer(), AnchorSet({}, (), ()), native=False)
    assert isinstance(other.backend, TorchBackend) and other.native_refusal is None and not other.wants_native


def test_ends_that_a_model_names_but_has_no_token_for_are_none():
    lm = make_model("llama")
    assert lm.generation_config is not None
    lm.generation_config.eos_token_id = [3, VOCAB, 50256]
    tokenizer = byte_tokenizer()
    own: Any = tokenizer.eos_token_id
    assert Model(lm, tokenizer, AnchorSet({}, (), ())).eos_ids == {3, own}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_makes_the_room_that_it_needs(threads: int):
    model = make_model("qwen")
    parts = random_parts(model, 3)
    backend = CpuBackend(model, parts, rows=9, threads=threads)
    backend.gate[5] = MIX
    assert (backend.rows, backend.columns) == (1, 64)
    got = [backend.forward(IDS[:60], [5] * 60, range(60), range(60))]
    got += [backend.forward([IDS[at]], [5], [at], [0]) for at in range(60, 70)]
    got.append(backend.forward(IDS[70:], [5] * 80, range(70, 150), range(80)))
    assert backend.rows > 5 and backend.columns >= 150
    assert torch.equal(torch.cat(got), logits(model, parts, MIX))


def test_a_call_without_tokens_gives_no_logits():
    backend = CpuBackend(make_model("llama"), [], rows=1)
    assert backend.forward([], [], [], []).shape == (0, VOCAB)


def test_cleared_room_is_given_back():
    backend = CpuBackend(make_model("llama"), [], rows=9, threads=2)
    backend.reserve(9, 500)
    backend.forward([1, 2], [8, 8], [0, 1], [1])
    watched = weakref.ref(backend.arrays.cache.keys)
    backend.clear()
    assert backend.rows == 1 and watched() is None


@pytest.mark.parametrize("length", [1, 9, 63, 64, 65, 128])
def test_a_snapshot_takes_no_more_room_than_its_tokens(length: int):
    model = make_model("llama")
    backend = CpuBackend(model, [], rows=2, threads=1)
    expected = backend.forward(IDS[:129], [0] * 129, range(129), range(129))
    snapshot = backend.snapshot(0, length)
    most = 4 * length * 2 * 2 * 6 * PANEL  # keys and values of 2 layers, 6 heads in one panel each
    assert sum(part.nbytes for part in snapshot) <= most
    for used in {1, length // 2 or 1, length}:
        backend.forward(IDS[::-1][:129], [1] * 129, range(129), [])
        backend.restore(1, snapshot, used)
        places = range(used, 129)
        assert torch.equal(
            backend.forward(IDS[used:129], [1] * len(places), places, range(len(places))), expected[used:]
        )
