"""Laws of forward passes, for both backends: right logits, however a text is cut and whatever else is in the batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

from mixer.adapters.anchor_set import load_anchors
from mixer.model.backend import Backend
from mixer.model.cpu_backend import CHUNK, CpuBackend
from mixer.model.torch_backend import TorchBackend
from tests.factory import merged_reference
from tests.kernels.parts import CONFIGS, VOCAB, make_model, merged, plain_logits, random_parts
from tests.model.parts import batch_exact

LENGTH, ROWS = 80, 4  # of the texts; longer than a panel of keys
MIXES = [(0.0, 0.0, 0.0), (0.7, -1.5, 0.3), (0.0, 0.0, 1.2), (-0.4, 0.0, 0.0)]
OTHER = ROWS  # a row with no text of its own
coefficients = st.tuples(*[st.sampled_from([0.0, -0.8, 0.5, 1.5])] * 3)


class Case:
    """A random model with three anchors, a backend that runs it, and a text and a mix for each of some rows."""

    def __init__(self, kind: str, native: bool) -> None:
        self.model = make_model(kind)
        self.parts = random_parts(self.model, 3)
        self.lm = self.model if native else copy.deepcopy(self.model)  # the one that the backend runs
        self.backend: Backend = (
            CpuBackend(self.lm, self.parts, rows=64, threads=1)
            if native
            else TorchBackend(self.lm, self.parts, rows=64)
        )
        generator = torch.Generator().manual_seed(3)
        self.texts = torch.randint(VOCAB, (ROWS, LENGTH), generator=generator).tolist()

    @cached_property
    def alone(self) -> list[Tensor]:
        """Logits after every token of each text, in one call for each text alone; `(LENGTH, V)` each."""
        self.begin()
        return [
            self.backend.forward(text, [row] * LENGTH, range(LENGTH), range(LENGTH))
            for row, text in enumerate(self.texts)
        ]

    def begin(self) -> None:
        """Make room for all rows, and set their mixes."""
        self.backend.reserve(ROWS + 1, LENGTH + 20)
        for row, mix in enumerate(MIXES):
            self.backend.gate[row] = mix

    def run(self, *spans: tuple[int, int, int], wanted: Sequence[int] | None = None) -> Tensor:
        """A call with pieces of the rows' texts, `(row, start, stop)` each; logits of all its tokens by default."""
        ids = [token for row, start, stop in spans for token in self.texts[row][start:stop]]
        rows = [row for row, start, stop in spans for _ in range(start, stop)]
        positions = [position for _, start, stop in spans for position in range(start, stop)]
        return self.backend.forward(ids, rows, positions, range(len(ids)) if wanted is None else wanted)

    def same(self, got: Tensor, expected: Tensor) -> bool:
        """Bit for bit where the backend promises that; otherwise within rounding."""
        if batch_exact(self.backend):
            return torch.equal(got, expected)
        return got.shape == expected.shape and torch.allclose(got, expected, atol=1e-5, rtol=0)


CASES = [(kind, native) for kind in CONFIGS for native in (True, False)]
IDS = [f"{kind}-{'native' if native else 'torch'}" for kind, native in CASES]


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def test_logits_are_those_of_the_merged_weights_in_float64(case: Case):
    for text, mix, got in zip(case.texts, MIXES, case.alone, strict=True):
        expected = plain_logits(merged(case.model, case.parts, mix), text)
        assert torch.allclose(got.double(), expected, atol=1e-5, rtol=0), mix
    assert not torch.allclose(case.alone[1], plain_logits(case.model, case.texts[1]), atol=0.05), "anchors matter"


@settings(max_examples=12)
@given(data=st.data())
def test_a_text_may_be_cut_into_calls_in_any_way_beside_any_others(case: Case, data: st.DataObject):
    expected = case.alone
    case.begin()
    read = [0] * ROWS
    sizes = st.sampled_from([0, 1, 1, 1, 2, 7, 30, LENGTH])
    while min(read) < LENGTH:
        spans, stops = [], {}
        for row in data.draw(st.permutations(range(ROWS))):
            stops[row] = min(read[row] + data.draw(sizes), LENGTH)
            if stops[row] > read[row]:
                spans.append((row, read[row], stops[row]))
        if not spans:
            spans = [(row, read[row], read[row] + 1) for row in range(ROWS) if read[row] < LENGTH]
        after = [expected[row][place] for row, start, stop in spans for place in range(start, stop)]
        wanted = [index for index in range(len(after)) if data.draw(st.booleans()) or index == len(after) - 1]
        got = case.run(*spans, wanted=wanted)
        assert case.same(got, torch.stack([after[index] for index in wanted])), (spans, wanted)
        for row, _, stop in spans:
            read[row] = stop


def test_tokens_whose_logits_nobody_wants_are_read_all_the_same(case: Case):
    case.begin()
    assert case.run((0, 0, 70), wanted=[]).shape == (0, VOCAB)
    assert case.same(case.run((0, 70, LENGTH)), case.alone[0][70:])


def test_a_call_may_hold_more_than_fits_at_once(case: Case):
    expected = torch.cat(case.alone)
    case.begin()
    case.backend.gate[OTHER] = MIXES[1]
    assert ROWS * LENGTH > 2 * (CHUNK + ROWS)
    wanted = [0, 67, 68, 71, 79, 80, 135, 136, 137, 200, ROWS * LENGTH - 1]
    assert case.same(case.run(*[(row, 0, LENGTH) for row in range(ROWS)], wanted=wanted), expected[wanted])


@settings(max_examples=15)
@given(data=st.data())
def test_a_row_does_not_see_what_others_hold_nor_how_their_mixes_move(case: Case, data: st.DataObject):
    watched, expected = data.draw(st.integers(0, ROWS - 1)), case.alone
    others = [row for row in range(ROWS) if row != watched]
    case.begin()
    case.run((watched, 0, 20))
    for row in others:
        case.run((row, 0, 10))
    for step in range(8):
        beside = []
        for row in others:
            case.backend.gate[row] = data.draw(st.one_of(coefficients, st.just((0.0, 0.0, 0.0))))
            size = data.draw(st.sampled_from([0, 1, 1, 5]))
            if size:
                beside.append((row, 10 + step, 10 + step + size))  # overwrites these positions again and again
            if data.draw(st.booleans()):
                case.run((row, 0, 10 + step + 1))
        place = data.draw(st.integers(0, len(beside)))
        spans = [*beside[:place], (watched, 20 + step, 21 + step), *beside[place:]]
        got = case.run(*spans)[sum(stop - start for _, start, stop in beside[:place])]
        assert case.same(got, expected[watched][20 + step])


def test_full_house(case: Case):
    """All rows at once, each with a mix of its own, give what each gives alone."""
    backend, count = case.backend, 64
    backend.reserve(count, 12)
    for row in range(count):
        backend.gate[row] = (row / 40, -row / 70, float(row % 3 == 0))
    texts = [case.texts[row % ROWS][row % 20 :][:11] for row in range(count)]
    for row, text in enumerate(texts):
        backend.forward(text[:10], [row] * 10, range(10), [])
    together = backend.forward([text[10] for text in texts], range(count), [10] * count, range(count))
    for row in (0, 1, 31, 63):
        alone = backend.forward(texts[row], [row] * 11, range(11), [10])
        assert case.same(together[row], alone[0])


@settings(max_examples=10)
@given(st.integers(1, LENGTH - 1), st.integers(1, LENGTH - 1), st.integers(0, ROWS - 1), st.integers(0, LENGTH - 1))
def test_a_row_goes_on_from_a_snapshot_as_if_it_had_read_it(case: Case, taken: int, used: int, row: int, held: int):
    used, expected = min(taken, used), case.alone[row]
    case.begin()
    case.run((row, 0, taken))
    snapshot = case.backend.snapshot(row, taken)
    if taken + 1 < LENGTH:
        case.run((row, taken, LENGTH), wanted=[])  # what a row does later must not change its snapshot
    if held:
        case.backend.gate[OTHER] = (1.0, 1.0, 1.0)
        case.backend.forward(case.texts[0][:held], [OTHER] * held, range(held), [])
    case.backend.gate[OTHER] = MIXES[row]
    for _ in range(2):  # nor what the restored row does later
        case.backend.restore(OTHER, snapshot, used)
        rest = case.texts[row][used:]
        got = [case.backend.forward(rest[:1], [OTHER], [used], [0])]
        if len(rest) > 1:
            places = range(used + 1, LENGTH)
            got.append(case.backend.forward(rest[1:], [OTHER] * len(places), places, range(len(places))))
        assert case.same(torch.cat(got), expected[used:])


@settings(max_examples=10)
@given(st.integers(1, LENGTH), st.integers(0, LENGTH - 1), st.integers(0, ROWS - 1), st.booleans())
def test_a_row_may_go_back_and_read_on_otherwise(case: Case, read: int, back: int, row: int, decoding: bool):
    back, expected = min(read, back), case.alone[row]
    case.begin()
    case.backend.gate[OTHER] = MIXES[row]
    wrong = case.texts[row][:back] + case.texts[row - 1][back:read]
    if decoding and read > 1:
        case.backend.forward(wrong[:-1], [OTHER] * (read - 1), range(read - 1), [])
        case.backend.forward(wrong[-1:], [OTHER], [read - 1], [0])
    else:
        case.backend.forward(wrong, [OTHER] * read, range(read), [])
    right = case.texts[row][back:]
    one = case.backend.forward(right[:1], [OTHER], [back], [0])
    places = range(back + 1, LENGTH)
    rest = case.backend.forward(right[1:], [OTHER] * len(places), places, range(len(places))) if places else one[:0]
    assert case.same(torch.cat([one, rest]), expected[back:])


def test_room_that_grows_keeps_what_rows_hold(case: Case):
    expected = case.alone
    case.backend.clear()
    case.backend.reserve(2, 30)
    for row in (0, 1):
        case.backend.gate[row] = MIXES[row]
        case.run((row, 0, 30))
    case.backend.reserve(30, 30)
    got = [case.run((0, 30, 31), (1, 30, 31))]
    case.backend.reserve(2, 500)
    got.append(case.run((0, 31, 32), (1, 31, 32)))
    case.backend.reserve(1, 1)  # there is room already
    got.append(case.run((0, 32, 33), (1, 32, 33)))
    wanted = [expected[row][30 + step] for step in range(3) for row in (0, 1)]
    assert case.same(torch.cat(got), torch.stack(wanted))


def test_after_clearing_everything_is_read_anew(case: Case):
    expected = case.alone
    case.begin()
    case.run((0, 0, LENGTH), (1, 0, LENGTH))
    case.backend.clear()
    if isinstance(case.backend, CpuBackend):
        assert case.backend.rows == 1 and case.backend.columns == 64
    case.begin()
    assert case.same(case.run((1, 0, LENGTH)), expected[1])
    assert case.same(case.run((0, 0, LENGTH)), expected[0])


def test_a_folded_mix_is_the_same_but_for_rounding_and_leaves_no_trace(case: Case):
    expected = case.alone
    try:
        for folded in (MIXES[1], MIXES[2], (0.3, 0.0, -1.0)):
            case.backend.fold(folded)
            case.begin()
            for row in range(ROWS):
                assert torch.allclose(case.run((row, 0, LENGTH)), expected[row], atol=2e-5, rtol=0)
    finally:
        case.backend.fold(MIXES[0])
    case.begin()
    assert all(torch.equal(case.run((row, 0, LENGTH)), expected[row]) for row in range(ROWS))


@pytest.mark.parametrize("native", [True, False])
def test_a_desk_s_files_give_what_peft_s_own_scaling_merges(tiny: Path, native: bool):
    lm = AutoModelForCausalLM.from_pretrained(tiny / "base", dtype=torch.float32).eval()
    adapters = load_anchors(tiny / "anchors", lm, "base").adapters
    backend = (CpuBackend if native else TorchBackend)(lm, [adapter.parts for adapter in adapters], rows=1)
    folders = [tiny / "anchors" / adapter.anchor.name.replace(".", "/") for adapter in adapters]
    mix = (0.8, -1.2, 0.0, 1.5)
    reference = merged_reference(tiny / "base", list(zip(folders, mix, strict=True)))
    ids = torch.randint(260, (30,), generator=torch.Generator().manual_seed(1)).tolist()
    backend.gate[0] = mix
    got = backend.forward(ids, [0] * 30, range(30), range(30))
    assert torch.allclose(got, plain_logits(reference, ids), atol=1e-4, rtol=0)


def test_a_pass_that_breaks_off_leaves_the_rows_as_they_were():
    case = Case("qwen", native=False)
    expected, breaks = case.alone, [True]

    def break_off(*_):
        if breaks:
            breaks.clear()
            raise MemoryError

    case.begin()
    case.run((0, 0, 20), (1, 0, 10))
    case.run((0, 20, 21), (1, 10, 11))
    handle = case.lm.get_submodule("model.layers.1.mlp").register_forward_pre_hook(break_off)
    for spans in [((0, 21, 22), (1, 11, 12)), ((0, 21, 30),)]:
        breaks.append(True)
        with pytest.raises(MemoryError):
            case.run(*spans)
    handle.remove()
    got = case.run((0, 21, 22), (1, 11, 12))
    assert case.same(got, torch.stack([expected[0][21], expected[1][11]]))


def test_states_are_what_logits_are_products_of(case: Case):
    case.begin()
    head = case.model.lm_head.weight.detach().float()
    for spans in ([(0, 0, 20), (1, 0, 7)], [(0, 20, 21), (1, 7, 8)], [(0, 21, 24), (1, 8, 11)]):
        logits = case.run(*spans)
        assert case.backend.states.shape == (len(logits), head.shape[1])
        assert torch.allclose(case.backend.states @ head.T, logits, atol=1e-4)
    case.backend.forward([1, 2], [0, 0], [24, 25], [])
    assert case.backend.states.shape == (0, head.shape[1])
