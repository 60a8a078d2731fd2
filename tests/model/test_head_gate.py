"""Laws of reward heads added to the final state, for both backends: right for each row, and no trace at rest."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.model.cpu_backend import CpuBackend
from mixer.model.torch_backend import TorchBackend
from mixer.rewards.heads import RewardHead, fused_matrix
from tests.kernels.parts import make_model, plain_logits
from tests.model.test_backends import CASES, IDS, LENGTH, ROWS, Case

SIZE = 48
NO_BASELINE = torch.zeros(SIZE)
_generator = torch.Generator().manual_seed(8)
HEADS = [
    RewardHead(
        torch.randn(r, SIZE, generator=_generator) / 7, torch.randn(SIZE, r, generator=_generator) / 3, NO_BASELINE
    )
    for r in (1, 16, 3)
]
REST = (0.0, 0.0, 0.0)
strengths = st.tuples(*[st.sampled_from([0.0, -2.0, 0.4, 1.5])] * 3)


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def case(request: pytest.FixtureRequest) -> Case:
    case = Case(*request.param)
    assert case.backend.heads == () and case.alone  # before there are heads
    case.backend.put_heads([(head.down, head.up) for head in HEADS])
    return case


@settings(max_examples=10)
@given(positions=st.lists(st.one_of(st.none(), strengths), min_size=ROWS, max_size=ROWS), data=st.data())
def test_each_row_s_logits_are_those_of_its_own_fused_matrix(case: Case, positions: list, data: st.DataObject):
    head = case.model.lm_head.weight.detach().float()
    case.begin()
    for row, own in enumerate(positions):
        case.backend.head_gate[row] = own
    stop = data.draw(st.integers(2, 30))
    for spans in ([(row, 0, stop) for row in range(ROWS)], [(row, stop, stop + 1) for row in range(ROWS)]):
        logits, states = case.run(*spans), case.backend.states
        for row, own in enumerate(positions):
            _, start, end = spans[row]
            places = slice(row * (end - start), (row + 1) * (end - start))
            plain = case.alone[row][start:end]
            if own is None or own == REST:
                assert case.same(logits[places], plain)
            else:
                live_heads = states[places] @ fused_matrix(HEADS, own).T @ head.T
                assert torch.allclose(logits[places], live_heads, atol=1e-4, rtol=1e-5)
            assert torch.allclose(states[places] @ head.T, plain, atol=1e-4), "states are those without heads"
    for row in range(ROWS):
        case.backend.head_gate[row] = None
    assert all(case.same(case.run((row, 0, LENGTH)), case.alone[row]) for row in range(ROWS))


def test_a_row_with_live_heads_is_the_same_alone_and_among_others(case: Case):
    case.begin()
    for row in range(ROWS):
        case.backend.head_gate[row] = (float(row), -1.0, 0.0 if row < 2 else 0.5)
    case.run((0, 0, 20), (1, 0, 10), (2, 0, 5))
    together = case.run((0, 20, 21), (1, 10, 13), (2, 5, 40))
    for at, span in ((0, (0, 20, 21)), (1, (1, 10, 13)), (4, (2, 5, 40))):
        assert case.same(case.run(span), together[at : at + span[2] - span[1]])
    for row in range(ROWS):
        case.backend.head_gate[row] = None


def test_heads_stay_where_room_grows_or_goes(case: Case):
    case.begin()
    case.backend.head_gate[1] = (1.0, 1.0, 1.0)
    first = case.run((1, 0, 20))
    case.backend.reserve(9, 700)
    case.run((1, 0, 20))
    case.backend.clear()
    case.begin()
    assert case.same(case.run((1, 0, 20)), first)
    case.backend.head_gate[1] = None


@pytest.mark.parametrize("native", [True, False])
def test_heads_of_bfloat16_models_are_computed_in_float32(native: bool):
    model = make_model("qwen", torch.bfloat16)
    backend = (CpuBackend if native else TorchBackend)(copy.deepcopy(model), [], rows=2)
    backend.put_heads([(head.down, head.up) for head in HEADS])
    backend.gate[0], backend.head_gate[0] = (), (0.3, 1.0, -0.5)
    ids = torch.randint(260, (30,), generator=torch.Generator().manual_seed(2)).tolist()
    logits = backend.forward(ids, [0] * 30, range(30), range(30))
    matrix = fused_matrix(HEADS, (0.3, 1.0, -0.5))
    expected = backend.states @ matrix.T @ model.lm_head.weight.detach().float().T
    # Compiled sums are float32; the model's own output layer rounds states and sums to bfloat16.
    assert torch.allclose(logits, expected, atol=1e-4 if native else 0.02 * float(expected.abs().max()))
    assert not torch.allclose(logits, plain_logits(model, ids).float(), atol=0.5)
