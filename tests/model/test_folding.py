"""Laws of the fold: the distribution of the gate, exact after any sequence of moves, and the way back to the base."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from mixer import Desk, Mix, SamplingParams
from mixer.errors import Unsupported
from mixer.model.auto_fold import FoldCosts, shortest_time
from mixer.model.cpu_backend import CpuBackend
from mixer.model.folding import GROUPS, as_float32
from tests.factory import make_desk_folders

PROMPT = "Nurse Abeni unfolded"
KINDS = [
    ("llama", "float32", True),
    ("qwen", "bfloat16", True),
    ("llama", "float32", False),
    ("gpt2", "float32", False),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def desk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    kind, dtype, native = request.param
    folders = make_desk_folders(tmp_path_factory.mktemp(kind), kind)
    return Desk.load(folders / "base", folders / "anchors", device="cpu", dtype=dtype, native=native, auto_fold=False)


@pytest.fixture(params=["float32", "bfloat16"])
def native(request: pytest.FixtureRequest, tiny: Path) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu", dtype=request.param)


def any_mix(desk: Desk, rng: random.Random) -> Mix:
    coefficients = {name: rng.choice([0.0, rng.uniform(-1.5, 2)]) for name in desk.anchors}
    return desk.mix_from_coefficients(coefficients | {rng.choice(desk.anchors): rng.uniform(0.5, 1.5)})


def weights_hash(desk: Desk) -> str:
    digest = hashlib.sha256()
    for name, weight in desk.base_model.state_dict().items():
        digest.update(name.encode() + weight.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_every_row_gives_what_it_gave_before_the_fold(desk: Desk):
    rng, rounding = random.Random(1), 0.2 if desk.base_model.dtype == torch.bfloat16 else 1e-4
    mixes = [Mix(), *(any_mix(desk, rng) for _ in range(3))]
    before, weights = [desk.logprobs(PROMPT, mix) for mix in mixes], weights_hash(desk)
    for folded in mixes[1:]:
        desk.fold(folded)
        assert desk.folded == folded and weights_hash(desk) == weights
        for mix, expected in zip(mixes, before, strict=True):
            assert torch.allclose(desk.logprobs(PROMPT, mix), expected, atol=rounding, rtol=0)
    desk.unfold()
    assert desk.folded is None
    assert all(torch.equal(desk.logprobs(PROMPT, mix), old) for mix, old in zip(mixes, before, strict=True))


def test_a_fold_acts_in_mid_text_and_the_text_stays_exact(desk: Desk):
    mix = desk.mix(formality=0.8)
    session = desk.session(PROMPT, mix, SamplingParams(max_new_tokens=12, seed=3))
    for step in session:
        if step.index == 4:
            desk.fold(mix)
        if step.index == 8:
            desk.unfold()
        assert step.exact and step.mix_key == mix.key
    if desk.base_model.dtype == torch.float32:
        plain = desk.generate(PROMPT, mix, SamplingParams(max_new_tokens=12, seed=3))
        assert session.token_ids == list(plain.token_ids)


def packed(desk: Desk) -> dict[str, np.ndarray]:
    """The weights that the kernel computes with, as float32."""
    backend = desk.model.backend
    assert isinstance(backend, CpuBackend)
    return {name: as_float32(getattr(backend.arrays.weights, name)).copy() for name in GROUPS}


def test_a_walk_ends_where_a_fresh_fold_does_within_one_bf16_ulp(native: Desk):
    rng, base = random.Random(2), packed(native)
    mix = Mix()
    for _ in range(300):
        mix = mix.with_position(rng.choice(list(native.attributes)), rng.uniform(-1.5, 1.5))
        native.fold(mix)
    walked = packed(native)
    native.unfold()
    assert all((packed(native)[name] == base[name]).all() for name in base)
    native.fold(mix)
    for name, fresh in packed(native).items():
        # The rounding error is relative to the largest summand: weight and delta may cancel.
        entered = np.maximum(np.maximum(abs(base[name]), abs(fresh)), abs(fresh - base[name]))
        assert (abs(walked[name] - fresh) <= 2.0**-8 * entered).all()


def test_a_drag_in_a_hundred_folded_steps_arrives(native: Desk):
    base = packed(native)
    native.fold(native.mix(formality=1))
    goal = {name: weights - base[name] for name, weights in packed(native).items()}
    native.unfold()
    for step in range(101):
        native.fold(native.mix(formality=step / 100))
    for name, weights in packed(native).items():
        reached = float(((weights - base[name]) * goal[name]).sum() / (goal[name] ** 2).sum())
        assert reached == pytest.approx(1, abs=1e-3)


def test_a_move_multiplies_the_adapters_that_it_changes_and_no_others(native: Desk):
    backend = native.model.backend
    assert isinstance(backend, CpuBackend)
    native.fold(native.mix(formality=0.5, humor=0.7))
    expected = packed(native)
    native.unfold()
    native.fold(native.mix(formality=0.5, humor=0.5))
    slot = native.anchors.index("humor.positive") * 4
    for name in GROUPS:  # from here on, all other anchors' adapters are NaN
        for b in getattr(backend.arrays.lora, f"{name}_b"):
            others = np.delete(np.arange(b.shape[2]), range(slot, slot + 4))
            b[:, :, others] = np.nan if b.dtype == np.float32 else 0x7FC0
    native.fold(native.mix(formality=0.5, humor=0.7))
    for name, weights in packed(native).items():
        assert np.allclose(weights, expected[name], atol=0.01)


def test_ten_thousand_moves_leave_the_base_as_it_was(native: Desk):
    before, weights, rng = native.logprobs(PROMPT), weights_hash(native), random.Random(4)
    gate, mix = native.model.backend.gate, Mix()
    for move in range(10_000):
        mix = mix.with_position(rng.choice(list(native.attributes)), rng.uniform(-3, 3))
        gate[1] = mix.coefficients(native.anchors)
        if move % 500 == 0:
            native.fold(mix)
    gate[1] = None
    native.unfold()
    assert weights_hash(native) == weights and torch.equal(native.logprobs(PROMPT), before)


def test_a_mix_that_all_texts_share_is_folded_where_that_pays(tiny: Path):
    desk = Desk.load(tiny / "base", tiny / "anchors", device="cpu")
    mix, params = desk.mix(formality=0.8), SamplingParams(max_new_tokens=40, min_new_tokens=40, seed=1)
    desk.auto_fold.costs = FoldCosts(saved=1.0, fold=1.0)
    session = desk.session(PROMPT, mix, params)
    other = desk.session(PROMPT, desk.mix(humor=1), SamplingParams(max_new_tokens=5, min_new_tokens=5, seed=1))
    folded = []
    for step in session:
        folded.append(desk.folded)
        if step.index == 10:
            stream = iter(other)
            next(stream)
        if step.index == 20:
            for _ in stream:
                pass
    assert folded[1:10] == [mix] * 9, "alone, under one mix"
    assert folded[12:20] == [None] * 8, "another mix is in flight"
    assert folded[22] == mix
    assert folded[-1] is None or folded[-1] == mix
    desk.auto_fold.costs = FoldCosts(saved=1.0, fold=1000.0)
    desk.unfold()
    desk.generate(PROMPT, mix, params)
    assert desk.folded is None, "forty tokens do not pay for a thousand"
    desk.fold(desk.mix(humor=1))
    desk.generate(PROMPT, mix, params)
    assert desk.folded == desk.mix(humor=1), "what a person folded stays"


def test_costs_are_measured_when_a_fold_comes_into_question(tiny: Path):
    desk = Desk.load(tiny / "base", tiny / "anchors", device="cpu")
    assert desk.auto_fold.costs is None
    before = desk.logprobs(PROMPT)
    desk.generate(PROMPT, desk.mix(formality=0.8), SamplingParams(max_new_tokens=20, min_new_tokens=20, seed=1))
    assert desk.auto_fold.costs is not None and desk.auto_fold.costs.fold > 0
    desk.unfold()
    assert torch.equal(desk.logprobs(PROMPT), before)


def test_the_least_time_counts_the_work_alone():
    waits, now = [3, 1, 3], [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    assert shortest_time(lambda: wait(waits.pop()), times=3, after=lambda: wait(2), clock=lambda: now[0]) == 1
    assert not waits


def test_a_quantized_base_is_not_folded_and_says_why(tiny: Path):
    desk = Desk.load(tiny / "base", tiny / "anchors", device="cpu", quantize="nf4")
    with pytest.raises(Unsupported, match="nf4"):
        desk.fold(desk.mix(formality=1))
