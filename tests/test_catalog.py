"""Further models and judges for formulas: refused with the reason, or as good as any other term."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from mixer import Desk, SamplingParams
from mixer.errors import BadArtifact, FormulaError, InvalidValue, UnknownName, Unsupported
from tests.factory import byte_tokenizer, make_base


@pytest.fixture
def desk(tiny: Path) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu")


def test_another_base_is_a_term_of_its_own(desk: Desk, tmp_path: Path):
    desk.add_model("other", make_base(tmp_path / "other", "gpt2", seed=4))
    alone = Desk.load(tmp_path / "other", tmp_path / "none", device="cpu", strict=False)
    got = desk.logprobs("Hi there", None, "[base, model=other]")
    assert torch.allclose(got, alone.logprobs("Hi there"), atol=1e-5)
    mixed = desk.logprobs("Hi there", None, '0.5*base + 0.5*[base, model="other"]')
    assert torch.allclose(mixed, torch.log_softmax((desk.logprobs("Hi there") + got) / 2, -1), atol=1e-5)
    out = desk.generate("Hi", None, SamplingParams(max_new_tokens=8, seed=1), "base + [base, model=other]")
    assert len(out.token_ids) == 8
    with pytest.raises(FormulaError, match="belong to the resident base"):
        desk.formula("[0.5*humor, model=other]")


def test_a_base_with_another_tokenizer_is_refused(desk: Desk, tmp_path: Path):
    folder = make_base(tmp_path / "odd")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<odd>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(Unsupported, match="258 tokens, not 257"):
        desk.add_model("odd", folder)
    with pytest.raises(BadArtifact):
        desk.add_model("gone", tmp_path / "gone")
    assert desk.vocabulary.models == ()


@pytest.mark.parametrize("name", ["a b", "", "../x", "3"])
def test_names_can_be_written_in_a_formula(desk: Desk, tmp_path: Path, name: str):
    with pytest.raises(InvalidValue, match="no name"):
        desk.add_model(name, tmp_path)
    with pytest.raises(InvalidValue, match="no name"):
        desk.add_judge(name, tmp_path)


def test_a_classifier_is_a_judge(desk: Desk, tmp_path: Path):
    torch.manual_seed(1)
    size: dict[str, Any] = {"vocab_size": 260, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = BertConfig(**size, num_hidden_layers=1, pad_token_id=0, id2label={0: "calm", 1: "cross"})
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(FormulaError, match="no judge"):
        desk.formula("base + judge(temper)")
    with pytest.raises(UnknownName, match="angry"):
        desk.add_judge("temper", tmp_path, "angry")
    desk.add_judge("temper", tmp_path, "cross")
    with pytest.raises(InvalidValue, match="taken"):
        desk.add_judge("temper", tmp_path)
    params = SamplingParams(max_new_tokens=6, seed=1)
    plain = desk.logprobs("Hi")
    judged = desk.logprobs("Hi", None, "base + 40*judge(temper, k=20)")
    shift = judged - plain  # the same for all tokens that the judge was not asked about
    assert 0 < int((shift - shift.median()).abs().gt(1e-4).sum()) <= 20
    assert len(desk.generate("Hi", None, params, "base + 40*judge(temper) - 0.1*strength(temper)*base").token_ids) == 6
