"""RAD at decode time: one pass gives the rewards of one pass per token, while texts grow, branch and go back."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from mixer.adapters.fingerprint import base_fingerprint
from mixer.errors import BadArtifact
from mixer.model.cpu_backend import CpuBackend
from mixer.model.torch_backend import TorchBackend
from mixer.rewards.files import calibration_record
from mixer.rewards.heads import HeadCalibration
from mixer.rewards.rad import REPORT, ROWS, WEIGHTS, Rad, load_rad
from mixer.training.reward_model import RewardModel, load_teacher
from tests.factory import VOCAB, make_base

CALIBRATION = HeadCalibration(0.2, 4.0, {0.1: 0.5, 0.5: 1.25}, {})


def make_teacher(base: Path, folder: Path, dtype: torch.dtype = torch.float32, **report) -> Path:
    """Write a random reward model for a base, in the form in which training writes it."""
    generator = torch.Generator().manual_seed(11)
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tensors = {
        f"backbone.{name}": (weight.detach() + 0.1 * torch.randn(weight.shape, generator=generator)).to(dtype)
        for name, weight in lm.base_model.named_parameters()
    }
    tensors |= {"weight": 0.05 * torch.randn(32, generator=generator), "bias": torch.tensor([0.45])}
    folder.mkdir(parents=True)
    save_file(tensors, folder / WEIGHTS)
    record = {"made_from": {"config": {"lora": 0}}, "base_fingerprint": base_fingerprint(lm)}
    record |= {"calibration": calibration_record(CALIBRATION)} | report
    (folder / REPORT).write_text(json.dumps(record))
    return folder


class Case:
    """The same reward model at decode time (`rad`) and in training (`model`)."""

    def __init__(self, root: Path, kind: str, native: bool, dtype: torch.dtype) -> None:
        base = make_base(root / "base", kind)
        folder = make_teacher(base, root / "rad", dtype)
        self.lm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        self.rad: Rad = load_rad(self.lm, folder, native)
        self.model: RewardModel = load_teacher(base, folder)

    def one_by_one(self, text: list[int], tokens: list[int]) -> Tensor:
        """The rewards by one pass for each token."""
        return torch.cat([self.rad.rewards(text, [token]) for token in tokens])

    @torch.inference_mode()
    def expected(self, text: list[int], tokens: list[int]) -> Tensor:
        """RAD by its definition: the whole text with each token in its own pass, without a KV cache."""
        passes = [self.model(torch.tensor([[*text, token]]), use_cache=False)[0, -1] for token in tokens]
        return torch.stack(passes).clamp(0, 1)


CASES = [(kind, native) for kind in ("llama", "qwen", "mistral") for native in (True, False)] + [("gpt2", True)]


@pytest.fixture(scope="module", params=CASES, ids=lambda param: f"{param[0]}-{'native' if param[1] else 'torch'}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind, native = request.param
    return Case(tmp_path_factory.mktemp(kind), kind, native, torch.float32)


tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=24)


@settings(max_examples=12)
@given(st.lists(tokens, min_size=1, max_size=3), st.data())
def test_texts_that_grow_and_go_back_are_scored_as_from_the_start(case: Case, texts: list[list[int]], data):
    for _ in range(5):
        text = data.draw(st.sampled_from(texts))
        some = data.draw(tokens)
        expected = case.expected(text, some)
        for scores in data.draw(st.permutations([case.rad.rewards, case.one_by_one])):
            assert torch.allclose(scores(text, some), expected, atol=1e-4)
        change = data.draw(st.sampled_from(["grow", "branch", "back"]))
        if change == "grow":
            text.append(data.draw(st.sampled_from(some)))
        elif change == "branch" and len(texts) < 6:
            texts.append([*text, some[0]])
        elif len(text) > 1:
            del text[data.draw(st.integers(1, len(text) - 1)) :]


def test_which_network_scores(case: Case, request: pytest.FixtureRequest):
    native = "native" in request.node.name and "gpt2" not in request.node.name
    assert isinstance(case.rad.backend, CpuBackend if native else TorchBackend)
    assert case.rad.calibration == CALIBRATION


def test_more_texts_than_rows_and_none_in_another_s_way(case: Case):
    prompt = [5, 9, 100, 7]
    for turn in range(2):
        for text in range(ROWS + 3):
            ids = [*prompt, text, 40][: 5 + turn]
            assert torch.allclose(case.rad.rewards(ids, [1, 2]), case.expected(ids, [1, 2]), atol=1e-4)


def test_a_text_s_tokens_are_read_once(case: Case, monkeypatch: pytest.MonkeyPatch):
    read, forward = [], case.rad.backend.forward

    def counting(ids, *rest):
        read.append(len(ids))
        return forward(ids, *rest)

    monkeypatch.setattr(case.rad.backend, "forward", counting)
    text, other = [3, 1, 4, 1, 5, 9, 2, 6, 77], [3, 1, 4, 1, 5, 99]
    for ids in (text, [*text, 8], other, [*text, 8, 8], [*other, 7]):  # two texts with a common prefix, in turn
        case.rad.rewards(ids, [1, 2, 3])
    assert read == [9 + 3, 1 + 3, 1 + 3, 1 + 3, 1 + 3]


def test_threads_take_turns(case: Case):
    texts = [[seed, *range(seed, seed + 6)] for seed in (20, 90, 150)]
    found: dict[int, list[Tensor]] = {}

    def follow(index: int) -> None:
        text = texts[index]
        found[index] = [case.rad.rewards(text[:stop], [1, 2, 3]) for stop in range(1, len(text) + 1)]

    threads = [threading.Thread(target=follow, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, text in enumerate(texts):
        for stop, got in enumerate(found[index], start=1):
            assert torch.allclose(got, case.expected(text[:stop], [1, 2, 3]), atol=1e-4)


def test_a_pass_that_breaks_off_costs_a_row_and_nothing_else(case: Case, monkeypatch: pytest.MonkeyPatch):
    text = [8, 6, 7, 5, 3, 0, 9]
    case.rad.rewards(text, [1])

    def break_off(*_):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(case.rad.backend, "forward", break_off)
        case.rad.rewards([*text, 4], [1])
    assert torch.allclose(case.rad.rewards([*text, 4], [1]), case.expected([*text, 4], [1]), atol=1e-4)


def test_stored_bfloat16_weights_lose_nothing(tmp_path: Path):
    case = Case(tmp_path, "qwen", True, torch.bfloat16)
    text, some = [*range(50, 90)], [*range(20)]
    assert torch.allclose(case.rad.rewards(text, some), case.expected(text, some), atol=1e-5)


def test_loading_leaves_the_base_and_the_random_numbers_as_they_are(tmp_path: Path):
    base = make_base(tmp_path / "base")
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = {name: weight.clone() for name, weight in lm.state_dict().items()}
    folder, state = make_teacher(base, tmp_path / "rad"), torch.random.get_rng_state()
    load_rad(lm, folder).rewards([1, 2], [3])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(weight, before[name]) for name, weight in lm.state_dict().items())
    assert lm.config.tie_word_embeddings


def test_what_cannot_be_used_is_said(tmp_path: Path):
    lm = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "base"), dtype=torch.float32)
    with pytest.raises(BadArtifact, match="no reward model"):
        load_rad(lm, tmp_path)
    with pytest.raises(BadArtifact, match="not calibrated"):
        load_rad(lm, make_teacher(tmp_path / "base", tmp_path / "raw", calibration=None))
    with pytest.raises(BadArtifact, match="no reward model"):
        load_rad(lm, make_teacher(tmp_path / "base", tmp_path / "odd", calibration={"sigma": 1.0}))
    other = make_base(tmp_path / "other", seed=5)
    with pytest.raises(BadArtifact, match="another base"):
        load_rad(lm, make_teacher(other, tmp_path / "else"))
    folder = make_teacher(tmp_path / "base", tmp_path / "part")
    output = {"weight": torch.zeros(32), "bias": torch.zeros(1)}
    save_file(output, folder / WEIGHTS)
    with pytest.raises(BadArtifact, match=r"lacks .*weight"):
        load_rad(lm, folder)
    save_file(
        {"weight": torch.zeros(32), "bias": torch.zeros(1), "backbone.norm.weight": torch.zeros(3)}, folder / WEIGHTS
    )
    with pytest.raises(BadArtifact, match="does not fit"):
        load_rad(lm, folder)
