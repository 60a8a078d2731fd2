"""Laws of alternatives, several tokens at one position of a row: each is as it is alone, and none is kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixer.model.backend import Backend
from mixer.model.cpu_backend import CHUNK, CpuBackend
from mixer.model.torch_backend import BRANCHES, TorchBackend
from tests.kernels.parts import VOCAB, make_model, random_parts
from tests.model.parts import batch_exact
from tests.model.test_backends import CASES, IDS, LENGTH, MIXES, OTHER, ROWS, Case

tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=24)


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def tree(backend: Backend, row: int, text: list[int], held: int, some: list[int]) -> Tensor:
    """Logits `(k, V)` after `text` and each of `some` tokens, in one call; the first `held` tokens are cached."""
    n, k = len(text), len(some)
    positions = [*range(held, n), *[n] * k]
    wanted = range(n - held, n - held + k)
    return backend.forward([*text[held:], *some], [row] * len(positions), positions, wanted, range(held, n + k))


def one_by_one(backend: Backend, row: int, text: list[int], some: list[int]) -> Tensor:
    """The same by a call for each token, where the whole text is cached."""
    return torch.cat([backend.forward([token], [row], [len(text)], [0]) for token in some])


@settings(max_examples=15)
@given(some=tokens, row=st.integers(0, ROWS - 1), length=st.integers(1, LENGTH), data=st.data())
def test_alternatives_are_what_each_is_in_a_pass_of_its_own(case: Case, some, row: int, length: int, data):
    case.begin()
    text, held = case.texts[row][:length], data.draw(st.integers(0, length))
    if held:
        case.run((row, 0, held))
    got = tree(case.backend, row, text, held, some)
    states = case.backend.states
    assert case.same(tree(case.backend, row, text, length, some), got), "asked again, it says the same"
    assert case.same(got, one_by_one(case.backend, row, text, some))
    assert torch.allclose(states @ case.model.lm_head.weight.detach().float().T, got, atol=1e-4)


@settings(max_examples=15)
@given(some=tokens, row=st.integers(0, ROWS - 1), length=st.integers(1, LENGTH - 2))
def test_a_row_goes_on_as_if_alternatives_had_never_been(case: Case, some, row: int, length: int):
    case.begin()
    tree(case.backend, row, case.texts[row][:length], 0, some)
    snapshot = case.backend.snapshot(row, length)
    one = case.run((row, length, length + 1))
    rest = case.run((row, length + 1, LENGTH))
    assert case.same(torch.cat([one, rest]), case.alone[row][length:])
    case.backend.gate[OTHER] = MIXES[row]
    case.backend.restore(OTHER, snapshot, length)
    assert case.same(case.backend.forward([case.texts[row][length]], [OTHER], [length], [0]), one)


@settings(max_examples=10)
@given(data=st.data())
def test_alternatives_of_several_rows_stand_beside_texts_that_are_read(case: Case, data: st.DataObject):
    case.begin()
    for row in range(ROWS):
        case.run((row, 0, 10 + row))
    call: list[tuple[int, int, int, int]] = []  # id, row, position, slot
    expected = []
    for row in data.draw(st.permutations(range(ROWS))):
        start, branching = 10 + row, data.draw(st.booleans())
        count = data.draw(st.integers(1, 5))
        places = [start] * count if branching else range(start, start + count)
        for index, position in enumerate(places):
            token = case.texts[row - branching][start + index]
            call.append((token, row, position, start + index))
            if branching:
                own = [*case.texts[row][:start], token]
                case.backend.gate[OTHER] = MIXES[row]
                expected.append(case.backend.forward(own, [OTHER] * len(own), range(len(own)), [start])[0])
            else:
                expected.append(case.alone[row][position])
    ids, rows, positions, slots = zip(*call, strict=True)
    for row in range(ROWS):
        case.run((row, 0, 10 + row), wanted=[])
    got = case.backend.forward(ids, rows, positions, range(len(ids)), slots)
    assert case.same(got, torch.stack(expected))


def test_there_may_be_more_alternatives_than_fit_at_once(case: Case):
    case.begin()
    text, many = case.texts[1][:50], [token % VOCAB for token in range(7, 7 + 3 * (CHUNK + ROWS))]
    assert len(many) > BRANCHES
    assert case.same(tree(case.backend, 1, text, 0, many), one_by_one(case.backend, 1, text, many))


def test_alternatives_may_stand_anywhere_in_a_row(case: Case):
    """One call may have alternatives at many positions, in slots behind the row's tokens, which stay."""
    case.begin()
    case.run((2, 0, 40))
    places, some = [5, 39, 20, 12], [3, 99, 200]
    positions = [place for place in places for _ in some]
    got = case.backend.forward(some * 4, [2] * 12, positions, range(12), range(40, 52))
    assert case.same(case.run((2, 40, 60)), case.alone[2][40:60])
    for index, place in enumerate(places):
        case.run((2, 0, place))
        alone = one_by_one(case.backend, 2, case.texts[2][:place], some)
        assert case.same(got[3 * index : 3 * index + 3], alone)


@pytest.mark.parametrize("kind", ["qwen", "mistral"])
def test_bfloat16_weights(kind: str):
    """Bit for bit in compiled code; `transformers` rounds sums to bfloat16, in batches differently than alone."""
    model = make_model(kind, torch.bfloat16)
    text = torch.randint(VOCAB, (70,), generator=torch.Generator().manual_seed(5)).tolist()
    for backend in (CpuBackend(model, random_parts(model, 3), rows=1), TorchBackend(model, [], rows=1)):
        backend.gate[0] = (0.5, -0.5, 1.0) if isinstance(backend, CpuBackend) else ()
        got = tree(backend, 0, text, 0, [*range(24)])
        alone = one_by_one(backend, 0, text, [*range(24)])
        if batch_exact(backend):
            assert torch.equal(got, alone)
        else:
            assert torch.allclose(got, alone, atol=0.03 * float(alone.abs().max()))
