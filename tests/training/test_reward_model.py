"""Laws of RAD's reward model: many tokens in one pass get the rewards that each gets alone; its loss; resuming."""

from __future__ import annotations

import _thread
import json
import lzma
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.rewards.rad import WEIGHTS
from mixer.training.labels import labelled_texts
from mixer.training.reward_model import (
    CHECKPOINT,
    RewardModel,
    TeacherConfig,
    load_teacher,
    new_teacher,
    prefix_loss,
    train_teacher,
)
from tests.factory import VOCAB, make_base

CONFIG = TeacherConfig(minutes=0.04, lr=1e-2, batch_tokens=512, longest=48)


@pytest.fixture(scope="module", params=["llama", "qwen", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    base = make_base(tmp_path_factory.mktemp(request.param) / "base", request.param)
    model, _, _ = new_teacher(base)
    model.backbone.float()
    model.weight.data = torch.randn(32, generator=torch.Generator().manual_seed(3))
    return model.requires_grad_(False).eval()


def sequentially(model: RewardModel, prefix: list[int], tokens: list[int]) -> torch.Tensor:
    """RAD as the paper defines it: for each next token one pass over the whole text."""
    return torch.stack([model(torch.tensor([[*prefix, token]]), use_cache=False)[0, -1] for token in tokens])


ids = st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=20)


@settings(max_examples=15)
@given(st.lists(ids, min_size=1, max_size=3), st.data())
def test_many_places_in_one_pass_are_what_each_token_is_alone(model: RewardModel, texts: list[list[int]], data):
    longest = max(map(len, texts))
    batch = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    places = torch.tensor([[data.draw(st.integers(0, len(text) - 1)) for _ in range(2)] for text in texts])
    candidates = torch.randint(VOCAB, (len(texts), 2, 4))
    found = model.after(batch, places, candidates)
    for text, own, tokens, rewards in zip(texts, places.tolist(), candidates.tolist(), found, strict=True):
        for place, some, got in zip(own, tokens, rewards, strict=True):
            assert torch.allclose(got, sequentially(model, text[: place + 1], some), atol=1e-4)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(-2, 2))
def test_a_text_s_prefixes_weigh_one_together_and_padding_nothing(lengths: list[int], error: float):
    labels = torch.ones(len(lengths))
    rewards = torch.full((len(lengths), 30), 99.0)
    for row, length in enumerate(lengths):
        rewards[row, :length] = 1 + error
    assert torch.allclose(prefix_loss(rewards, torch.tensor(lengths), labels), torch.tensor(error**2), atol=1e-5)
    late = torch.ones(1, 3)
    late[0, 2] = 0
    assert float(prefix_loss(late, torch.tensor([3]), torch.ones(1))) == pytest.approx(3 / 6)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of which one text says "aaab" and the other "zzzy"."""
    folder = tmp_path_factory.mktemp("data") / "pairs"
    folder.mkdir()
    with lzma.open(folder / "humor.jsonl.xz", "wt") as file:
        for i in range(80):
            opening = f"T {i} says"
            pair = {"opening": opening, "positive": opening + " aaab" * 3, "negative": opening + " zzzy" * 3}
            file.write(json.dumps(pair) + "\n")
    return folder.parent


@pytest.mark.parametrize("lora", [0, 4])
def test_it_learns_and_loads(base: Path, data: Path, tmp_path: Path, lora: int):
    config = replace(CONFIG, lora=lora)
    report = train_teacher(base, "humor", data, tmp_path, config)
    assert report["test"]["auc"] > 0.95 and report["test"]["prefix_loss"] < 0.2
    assert report["validation"]["texts"] and not (tmp_path / CHECKPOINT).exists()
    assert train_teacher(base, "humor", data, tmp_path, config) == report
    assert train_teacher(base, "humor", data, tmp_path) == report  # no settings asked for: these will do
    model = load_teacher(base, tmp_path)
    tokenizer = new_teacher(base)[1]
    high, low = (
        model(torch.tensor([tokenizer(f"T 3 says{word * 3}")["input_ids"]]))[0, -1] for word in (" aaab", " zzzy")
    )
    assert float(high - low) > 0.3
    own = new_teacher(base, lora)[0].eval()  # adapters by peft's own arithmetic
    own.load_state_dict(load_file(tmp_path / WEIGHTS), strict=False)
    assert torch.allclose(own(some := torch.randint(VOCAB, (2, 20))), model(some), atol=1e-4)
    with pytest.raises(BadArtifact, match="another base"):
        load_teacher(make_base(tmp_path / "other", seed=5), tmp_path)


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_interrupted(base: Path, data: Path, tmp_path: Path):
    checkpoint = tmp_path / CHECKPOINT

    def interrupt() -> None:
        """Once there is a checkpoint, what Ctrl-C does."""
        while not checkpoint.is_file() or load_file(checkpoint)["progress"][0] < 2:
            time.sleep(0.002)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        train_teacher(base, "humor", data, tmp_path, CONFIG, checkpoint_seconds=0)
    step, spent, *_ = load_file(checkpoint)["progress"].tolist()
    assert step > 1 and 0 < spent < 60 * CONFIG.minutes
    report = train_teacher(base, "humor", data, tmp_path, CONFIG)
    assert report["steps"] > step and report["minutes"] == pytest.approx(CONFIG.minutes, abs=0.02)


def test_the_parts_share_no_text(base: Path, data: Path):
    tokenizer = new_teacher(base)[1]
    parts = [
        {text.ids for text in labelled_texts(data, "humor", part, tokenizer)}
        for part in ("train", "validation", "test")
    ]
    assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_what_is_not_there_is_said(base: Path, data: Path, tmp_path: Path):
    with pytest.raises(UnknownName, match="humour"):
        labelled_texts(data, "humour", "train", new_teacher(base)[1])
    with pytest.raises(BadArtifact, match="no reward model"):
        load_teacher(base, tmp_path)
    with pytest.raises(InvalidValue):
        TeacherConfig(minutes=0)
