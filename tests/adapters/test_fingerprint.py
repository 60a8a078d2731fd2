"""Fingerprints tell models apart and forgive another precision of the same weights."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from mixer.adapters.fingerprint import base_fingerprint, is_other_precision, is_same_base
from mixer.resources import BASE


@pytest.fixture
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


def rounded(model: PreTrainedModel, bits: int) -> None:
    """Round all matrices to so many bits in blocks of 32, as a quantized file has them."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                blocks = weight.view(-1, 32)
                scale = blocks.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
                blocks.copy_((blocks / scale).round() * scale)


def test_the_dtype_it_was_loaded_in_does_not_matter(model: PreTrainedModel):
    assert base_fingerprint(model) == base_fingerprint(model.bfloat16())


@pytest.mark.parametrize("bits", [4, 8])
def test_another_precision_of_the_same_weights_is_the_same_model(model: PreTrainedModel, bits: int):
    plain = base_fingerprint(model)
    rounded(model, bits)
    assert is_same_base(plain, base_fingerprint(model)) and is_other_precision(plain, base_fingerprint(model))


def test_a_model_that_was_trained_on_is_another_model(model: PreTrainedModel):
    plain = base_fingerprint(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1e-2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * weight.abs()
    assert not is_same_base(plain, base_fingerprint(model))


def test_files_of_old_have_the_first_part_alone(model: PreTrainedModel):
    plain = base_fingerprint(model)
    first = plain.split(".")[0]
    assert is_same_base(first, plain) and is_same_base(plain, first) and not is_other_precision(first, plain)
    assert not is_same_base("0" * 16, plain) and not is_same_base("", plain)


def test_norms_that_were_never_trained_tell_nothing(model: PreTrainedModel):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.fill_(1)
    assert len(base_fingerprint(model)) == 16
