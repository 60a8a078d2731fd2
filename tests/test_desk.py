"""The desk's own words: mixes by position, distributions, scores, loading."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

from mixer import Desk, Mix, SamplingParams
from mixer.errors import BadArtifact, InvalidValue, UnknownName


@pytest.fixture(scope="module")
def desk(tiny: Path) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu")


def test_attributes_and_anchors_are_those_of_the_folder(desk: Desk):
    assert list(desk.attributes) == ["formality", "humor"]
    assert desk.anchors == ("formality.negative", "formality.positive", "humor.negative", "humor.positive")
    assert desk.attributes["humor"].positive is not None and desk.attributes["humor"].positive.rank == 4
    assert desk.context == 128 and desk.name == "base" and desk.problems == ()


def test_positions_become_coefficients_by_rule(desk: Desk):
    assert desk.mix(formality=0.8, humor=-0.4).coefficients(desk.anchors) == pytest.approx((0, 0.8, 0.4, 0))
    paper = desk.mix({"formality": 0.8}, lambdas={"formality": 2}, rule="interpolate")
    assert paper.coefficients(desk.anchors) == pytest.approx((0.2, 1.8, 0, 0))
    assert desk.mix() == Mix() == desk.mix(formality=0)


def test_the_raw_form_takes_any_coefficients_of_known_anchors(desk: Desk):
    mix = desk.mix_from_coefficients({"formality.positive": 1.3, "humor.negative": -0.7})
    assert mix.coefficients(desk.anchors) == (0, 1.3, -0.7, 0)
    with pytest.raises(UnknownName, match=r"formality\.positive"):
        desk.mix_from_coefficients({"formalty.positive": 1})
    with pytest.raises(InvalidValue, match="nan"):
        desk.mix_from_coefficients({"formality.positive": math.nan})


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3.5, "0.5", None])
def test_a_bad_position_is_refused(desk: Desk, bad):
    with pytest.raises(InvalidValue, match="position"):
        desk.mix(formality=bad)


def test_unknown_names_get_the_nearest(desk: Desk):
    with pytest.raises(UnknownName, match=r"no attribute called 'formalty'\. Did you mean formality"):
        desk.mix(formalty=1)
    with pytest.raises(UnknownName, match="no attribute"):
        desk.mix({}, lambdas={"charm": 1})
    with pytest.raises(InvalidValue, match="no position"):
        desk.mix({}, lambdas={"humor": 1})
    with pytest.raises(UnknownName, match="mix rule"):
        desk.mix(rule="average")  # type: ignore[arg-type]


def test_logprobs_are_a_normalized_float32_distribution_on_the_cpu(desk: Desk):
    logprobs = desk.logprobs("Dear neighbour,", desk.mix(formality=1.5))
    assert logprobs.dtype == torch.float32 and logprobs.device.type == "cpu" and logprobs.shape == (260,)
    assert float(logprobs.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_bf16_agrees_with_float32_within_its_rounding(tiny: Path, desk: Desk):
    half = Desk.load(tiny / "base", tiny / "anchors", device="cpu", dtype="bfloat16")
    mix = desk.mix(formality=0.7)
    exact, rounded = desk.logprobs("Dear", mix), half.logprobs("Dear", mix)
    assert float((exact.exp() - rounded.exp()).abs().sum()) < 0.2
    assert half.generate("Dear", mix, SamplingParams(max_new_tokens=5, seed=1)).token_ids


@pytest.mark.parametrize("damage", ["missing", "weights", "config", "tokenizer"])
def test_a_base_that_cannot_be_loaded_is_named_in_one_line(tiny: Path, tmp_path: Path, damage: str):
    base = Path(shutil.copytree(tiny / "base", tmp_path / "base"))
    if damage == "missing":
        shutil.rmtree(base)
    elif damage == "tokenizer":
        (base / "tokenizer.json").write_text("{")
    else:
        file = base / {"weights": "model.safetensors", "config": "config.json"}[damage]
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(BadArtifact, match="There is no base" if damage == "missing" else "cannot be loaded") as caught:
        Desk.load(base, tiny / "anchors", device="cpu")
    assert "\n" not in str(caught.value)


def test_a_folder_of_judges_that_is_not_there_is_refused(tiny: Path, tmp_path: Path):
    with pytest.raises(BadArtifact, match="judges"):
        Desk.load(tiny / "base", tiny / "anchors", device="cpu", judges=tmp_path / "none")


def test_scores_are_fractions(desk: Desk):
    assert desk.scores("A short text.") and all(0 <= score <= 1 for score in desk.scores("A short text.").values())
