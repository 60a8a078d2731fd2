"""Laws of the gate, on the three architectures, against plain `transformers` with merged weights."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from mixer import Desk, Mix, SamplingParams
from mixer.lora import Panel
from tests.factory import ARCHITECTURES, make_desk_folders, merged_reference

PROMPT = "The doctor took off his glasses"


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_desk_folders(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def desk(folders: Path) -> Desk:
    return Desk.load(folders / "base", folders / "anchors", device="cpu")


def plain_logprobs(model: torch.nn.Module, desk: Desk) -> torch.Tensor:
    with torch.inference_mode():
        ids = torch.tensor([desk._model.encode(PROMPT)])
        return torch.log_softmax(model(ids).logits[0, -1].float(), dim=-1)


def test_zero_coefficients_are_plain_transformers(folders: Path, desk: Desk):
    plain = AutoModelForCausalLM.from_pretrained(folders / "base", dtype=torch.float32).eval()
    assert torch.allclose(desk.logprobs(PROMPT), plain_logprobs(plain, desk), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_any_coefficients_equal_the_merged_weights(folders: Path, desk: Desk, seed: int):
    rng = random.Random(seed)
    coefficients = {name: rng.choice([0.0, -1.5, 1.5, rng.uniform(-1, 2)]) for name in desk.anchors}
    parts = [(folders / "anchors" / name.replace(".", "/"), c) for name, c in coefficients.items()]
    expected = plain_logprobs(merged_reference(folders / "base", parts), desk)
    got = desk.logprobs(PROMPT, desk.mix_from_coefficients(coefficients))
    assert torch.allclose(got, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(got, desk.logprobs(PROMPT), atol=1e-2), "the anchors must make a difference"


def test_a_row_with_a_zero_gate_is_the_base_bit_for_bit(folders: Path, desk: Desk, tmp_path: Path):
    (tmp_path / "none").mkdir()
    bare = Desk.load(folders / "base", tmp_path / "none", device="cpu")
    # In one batch with a row that steers, and against a desk that never had an adapter, at the same batch shape.
    seeded = SamplingParams(seed=7)
    steered = [desk.session(PROMPT, None, seeded), desk.session(PROMPT, desk.mix(formality=1.5, humor=-1), seeded)]
    plain = [bare.session(PROMPT, None, seeded), bare.session(PROMPT, None, seeded)]
    for (a, b), (c, _) in zip(desk.lockstep(*steered), bare.lockstep(*plain), strict=False):
        assert a is not None and c is not None and b is not None
        assert (a.token_id, a.logprob.hex()) == (c.token_id, c.logprob.hex())
        if a.index == 5:
            break
    rows = [model._model for model in (desk, bare)]
    ids = rows[0].encode(PROMPT)
    with torch.inference_mode():
        batch = torch.tensor([ids, ids])
        panel = rows[0].stack.panel(2)
        panel.set(1, desk.mix(formality=1.5).coefficients(desk.anchors))
        with rows[0].stack.applied(panel.gate):
            mixed = rows[0].lm(batch).logits
        assert torch.equal(mixed[0], rows[1].lm(batch).logits[0])
        assert not torch.equal(mixed[1], mixed[0])


def test_a_row_does_not_see_what_the_other_rows_hold(desk: Desk):
    model = desk._model
    ids = torch.tensor([model.encode(PROMPT)] * 4)
    panel = model.stack.panel(4)
    panel.set(0, desk.mix(formality=0.8).coefficients(desk.anchors))
    results = []
    with torch.inference_mode():
        for position in (0.0, 1.5):
            panel.set(2, desk.mix(humor=position).coefficients(desk.anchors))
            with model.stack.applied(panel.gate):
                results.append(model.lm(ids).logits[0])
    assert torch.equal(*results)


def test_no_walk_of_the_sliders_changes_the_base_weights(folders: Path):
    desk = Desk.load(folders / "base", folders / "anchors", device="cpu")
    before = weights_hash(desk)
    rng = random.Random(0)
    session = desk.session(PROMPT)
    for _, step in zip(range(40), session, strict=False):
        assert step is not None
        session.mix = desk.mix({name: rng.uniform(-3, 3) for name in desk.attributes})
    assert weights_hash(desk) == before


def weights_hash(desk: Desk) -> str:
    digest = hashlib.sha256()
    for name, weight in desk._model.lm.state_dict().items():
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_panel_holds_what_was_last_set(dtype: torch.dtype):
    panel = Panel([2, 3], rows=2, device=torch.device("cpu"), dtype=dtype)
    assert panel.gate is None
    panel.set(1, (0.5, -1.0))
    panel.set(1, (0.0, -1.0))
    assert panel.gate is not None and panel.row(0) is None
    assert panel.values.tolist() == [[0] * 5, [0, 0, -1, -1, -1]]
    panel.select([1])
    assert panel.values.tolist() == [[0, 0, -1, -1, -1]]
    panel.set(0, (0.0, 0.0))
    assert panel.gate is None


def test_a_mix_that_was_made_by_algebra_steers_like_its_coefficients(desk: Desk):
    made = 0.5 * desk.mix(formality=1) - desk.mix(humor=1)
    raw = Mix(raw={"formality.positive": 0.5, "humor.positive": -1.0})
    assert torch.equal(desk.logprobs(PROMPT, made), desk.logprobs(PROMPT, raw))
