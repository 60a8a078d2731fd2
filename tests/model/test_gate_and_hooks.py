"""Laws of the gate, on the three architectures, against plain `transformers` with merged weights."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from mixer import Desk, Mix, SamplingParams
from mixer.adapters.anchor_set import load_anchors
from mixer.adapters.low_rank import LowRank, ranks_of, stack_adapters
from mixer.model.gate import Gate
from mixer.model.lora_hooks import LoRAHooks
from tests.factory import ARCHITECTURES, VOCAB, make_desk_folders, merged_reference

PROMPT = "The doctor took off his glasses"


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_desk_folders(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def desk(folders: Path) -> Desk:
    return Desk.load(folders / "base", folders / "anchors", device="cpu")


def plain_logprobs(model: torch.nn.Module, desk: Desk) -> torch.Tensor:
    with torch.inference_mode():
        ids = torch.tensor([desk.tokenizer(PROMPT).input_ids])
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
    # In one batch with a steered row, compared with a desk without adapters at the same batch shape.
    seeded = SamplingParams(seed=7)
    steered = [desk.session(PROMPT, None, seeded), desk.session(PROMPT, desk.mix(formality=1.5, humor=-1), seeded)]
    plain = [bare.session(PROMPT, None, seeded), bare.session(PROMPT, None, seeded)]
    for (a, b), (c, _) in zip(desk.lockstep(*steered), bare.lockstep(*plain), strict=False):
        assert a is not None and c is not None and b is not None
        assert (a.token_id, a.logprob.hex()) == (c.token_id, c.logprob.hex())
        if a.index == 5:
            break


def test_the_hooks_leave_rows_with_a_zero_gate_alone(folders: Path, tmp_path: Path):
    models = [AutoModelForCausalLM.from_pretrained(folders / "base", dtype=torch.float32).eval() for _ in range(2)]
    adapters = load_anchors(folders / "anchors", models[0], "base").adapters
    hooks, gate = LoRAHooks(models[0], [adapter.parts for adapter in adapters], torch.float32), Gate([4] * 4, 3)
    ids = torch.randint(VOCAB, (3, 9))
    results = []
    with torch.inference_mode():
        for other in (0.5, -1.5):
            gate[1] = (0.8, 0.0, 0.0, 0.3)
            gate[2] = (other, 0.0, 1.0, 0.0)
            with hooks.applied(gate.values):
                results.append(models[0](ids).logits)
        plain = models[1](ids).logits
    assert torch.equal(results[0][:2], results[1][:2]), "a row does not see how another's sliders move"
    assert torch.equal(results[0][0], plain[0]) and not torch.equal(results[0][1], plain[1])


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
    for name, weight in desk.base_model.state_dict().items():
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), st.sampled_from([0.5, 1.0, 1.5])), min_size=1, max_size=4),
    st.data(),
)
def test_a_stack_is_the_sum_of_its_anchors_parts(shapes: list[tuple[int, int, float]], data: st.DataObject):
    """Where an anchor's rank is smaller on this module than on others, or 0, its slot ends in zeros."""
    torch.manual_seed(0)
    adapters, expected = [], torch.zeros(5, 7)
    gates = [data.draw(st.sampled_from([0.0, -1.0, 2.0])) for _ in shapes]
    for (widest, own, scaling), gate in zip(shapes, gates, strict=True):
        parts = {"other": LowRank(torch.zeros(widest, 2), torch.zeros(2, widest), 1.0)}
        if own := min(own, widest):
            part = LowRank(torch.randn(own, 7), torch.randn(5, own), scaling)
            parts["module"] = part
            expected += gate * scaling * (part.b @ part.a)
        adapters.append(parts)
    ranks = ranks_of(adapters)
    assert ranks == [widest for widest, _, _ in shapes]
    a, b = stack_adapters("module", adapters, ranks, d_in=7, d_out=5)
    live = torch.tensor([gate for gate, rank in zip(gates, ranks, strict=True) for _ in range(rank)])
    assert torch.allclose(b @ (live[:, None] * a), expected, atol=1e-5)


@given(st.lists(st.tuples(st.integers(0, 2), st.tuples(*[st.sampled_from([0.0, -1.0, 0.5])] * 3)), max_size=12))
def test_a_gate_holds_what_was_last_set_and_knows_what_is_live(moves: list[tuple[int, tuple[float, ...]]]):
    ranks, gate = (2, 1, 3), Gate((2, 1, 3), rows=3)
    rows: list[tuple[float, ...]] = [(0.0, 0.0, 0.0)] * 3
    for row, coefficients in moves:
        gate[row] = rows[row] = coefficients
        for some in ([0], [1, 2], [0, 1, 2]):
            expected = [[c for c, rank in zip(rows[own], ranks, strict=True) for _ in range(rank)] for own in some]
            assert gate.values[some].tolist() == expected
            assert gate.live(some).tolist() == [column for column in range(6) if any(own[column] for own in expected)]


def test_a_mix_that_was_made_by_algebra_steers_like_its_coefficients(desk: Desk):
    made = 0.5 * desk.mix(formality=1) - desk.mix(humor=1)
    raw = Mix(raw={"formality.positive": 0.5, "humor.positive": -1.0})
    assert torch.equal(desk.logprobs(PROMPT, made), desk.logprobs(PROMPT, raw))
