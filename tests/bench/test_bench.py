"""The benchmarks' logic: what the bytes say, gates that catch a wrong system, prompts, layouts, tables. Never times."""

from __future__ import annotations

import importlib.util
import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from bench import formula
from bench.harness.checks import coefficient_reached, compare_with_reference, memory_slope
from bench.harness.config import BenchConfig, adapters_in, coefficients, link_anchors, poles, prompt_of
from bench.harness.cost import cost
from bench.harness.harness import Harness
from bench.harness.run_torch import merged
from bench.harness.tables import markdown, p50_p95, percent, ratio, shown
from bench.harness.terms import TermByTerm, acceptance, overlap
from bench.harness.worker import Worker, WorkerFailed
from bench.moves import TRACES
from mixer import Attribute, Desk, Mix, SamplingParams
from mixer.cli import main
from mixer.decoding.sampler import noise
from mixer.errors import BadArtifact, InvalidValue, UnknownName
from mixer.formula.bind import Vocabulary
from mixer.formula.compile import compile_formula

PROMPT = "Dear neighbor, it is 7 o'clock"
MIX = [0.7, -0.4, 1.0, 0.5]
peers = importlib.util.find_spec("llama_cpp") and importlib.util.find_spec("gguf")


@pytest.fixture(scope="module")
def desk(tiny: Path) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu", dtype="float32")


def logprobs(desk: Desk, mix: list[float]) -> list[float]:
    return desk.logprobs(PROMPT, desk.mix_from_coefficients(dict(zip(desk.anchors, mix, strict=True)))).tolist()


@pytest.fixture(scope="module")
def reference(tiny: Path, desk: Desk) -> list[float]:
    """Merged weights in plain transformers, and nothing of the desk."""
    lm = AutoModelForCausalLM.from_pretrained(tiny / "base", dtype=torch.float32).eval()
    lm = merged(lm, adapters_in(tiny / "anchors"), MIX)
    ids = desk.tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.inference_mode():
        return torch.log_softmax(lm(ids).logits[0, -1], dim=-1).tolist()


def test_a_right_system_passes_the_gate(desk: Desk, reference: list[float]):
    verdict = compare_with_reference(logprobs(desk, MIX), reference, [0.0, 0.001], "float32")
    assert verdict.right and verdict.off < 1e-3


@pytest.mark.parametrize("anchor", range(4))
@pytest.mark.parametrize("change", [0.05, -0.05])
def test_the_gate_catches_one_coefficient_that_is_slightly_wrong(
    desk: Desk, reference: list[float], anchor: int, change: float
):
    perturbed = [value + change * (index == anchor) for index, value in enumerate(MIX)]
    assert not compare_with_reference(logprobs(desk, perturbed), reference, [], "float32").right


def test_the_gate_catches_texts_that_the_reference_would_not_write_and_no_numbers(reference: list[float]):
    assert not compare_with_reference(reference, reference, [0.0, 0.5], "bfloat16").right
    assert not compare_with_reference([float("nan")] * len(reference), reference, [], "bfloat16").right
    assert not compare_with_reference(reference, reference, [float("nan")], "float32").right


@given(st.floats(0, 1.5), st.integers(0, 100))
def test_the_coefficient_that_a_drag_reached_is_read_from_its_text(reached: float, seed: int):
    at, slopes = np.random.default_rng(seed).normal(size=(2, 6))
    texts = {
        name: [[7, float(value + steep * (c - 1))] for value, steep in zip(at, slopes, strict=True)]
        for name, c in (("dragged", reached), ("at", 1.0), ("below", 0.99), ("above", 1.01))
    }
    assert coefficient_reached(texts) == pytest.approx(reached, abs=1e-6)


def test_texts_that_part_at_once_show_no_coefficient():
    texts = {"dragged": [[1, -1.0]], "at": [[2, -1.0]], "below": [[2, -1.1]], "above": [[2, -0.9]]}
    assert coefficient_reached(texts) != coefficient_reached(texts)


def test_the_slope_of_memory_leaves_out_the_warm_up():
    assert memory_slope([(0, 0), (1, 900), (2, 1000), (3, 1000), (4, 1000)]) == pytest.approx(0)
    assert memory_slope([(0, 0), (10, 50), (20, 100), (30, 150)]) == pytest.approx(5)


def test_the_bytes_are_those_of_the_tensors(tiny: Path, desk: Desk):
    adapters = adapters_in(tiny / "anchors")
    full = cost(tiny / "base", adapters, MIX, "float32", 10)
    assert full.weights == 4 * desk.base_model.num_parameters()  # tied: the embedding is the output layer
    parts = [part for adapter in desk.anchor_set.adapters for part in adapter.parts.values()]
    assert full.gate == 4 * sum(part.a.numel() + part.b.numel() for part in parts)
    assert full.cache == 4 * 2 * 2 * 32 * 10
    assert full.overhead == pytest.approx(full.gate / (full.weights + full.cache))


@given(st.lists(st.sampled_from([0.0, 0.5]), min_size=4, max_size=4))
def test_bytes_add_up_over_live_anchors_and_halve_in_bfloat16(tiny: Path, mix: list[float]):
    base, adapters = tiny / "base", adapters_in(tiny / "anchors")
    whole = cost(base, adapters, mix, "float32", 0)
    alone = [[value * (i == j) for j, value in enumerate(mix)] for i in range(4)]
    assert whole.gate == sum(cost(base, adapters, one, "float32", 0).gate for one in alone)
    half = cost(base, adapters, mix, "bfloat16", 0)
    assert (2 * half.gate, 2 * half.weights) == (whole.gate, whole.weights)


@given(st.integers(4, 100), st.integers(0, 40))
def test_a_prompt_is_as_long_as_asked_for_but_never_longer(tokens: int, turn: int):
    tokenizer = Tokenizer.from_file(str(Path(__file__).parents[2] / "assets" / "base" / "tokenizer.json"))
    text = prompt_of(tokenizer, tokens, turn)
    assert tokens - 3 <= len(tokenizer.encode(text).ids) <= tokens
    assert text.split()[:8] != prompt_of(tokenizer, 100, turn + 1).split()[:8]


@given(st.integers(1, 16), st.integers(0, 16), st.integers(0, 5))
def test_coefficients_are_live_where_they_should_be_and_repeat(count: int, live: int, seed: int):
    found = coefficients(count, min(live, count), seed)
    assert len(found) == count and sum(map(bool, found)) == min(live, count)
    assert found == coefficients(count, min(live, count), seed) and all(abs(value) <= 1 for value in found)


def test_more_anchors_than_there_are_are_the_same_under_other_names(tiny: Path, tmp_path: Path):
    folders = link_anchors(adapters_in(tiny / "anchors"), 6, tmp_path / "six")
    desk = Desk.load(tiny / "base", tmp_path / "six", device="cpu")
    assert folders[4:] == folders[:2] and len(desk.anchors) == 6
    assert desk.anchors[:2] == ("slider00.negative", "slider00.positive")
    once = desk.logprobs(PROMPT, desk.mix(slider00=-1))
    assert torch.equal(once, desk.logprobs(PROMPT, desk.mix(slider02=-1))) and poles(-1) == (1, 0)
    with pytest.raises(InvalidValue, match="whole sliders"):
        link_anchors(folders, 3, tmp_path / "three")


def test_traces_move_what_they_say():
    for trace in TRACES:
        moves = trace(random.Random(0), 3, 2, 50)
        assert len(moves) == 50 and {row for row, _ in moves} == {0, 1}
        sliders = {slider for _, positions in moves for slider in positions}
        assert sliders <= {"0", "1", "2"}
        assert all(-1.5 <= position <= 1.5 for _, positions in moves for position in positions.values())
    drag = [positions["0"] for _, positions in TRACES[1](random.Random(0), 3, 1, 500)]
    assert len(drag) == 180 and max(abs(a - b) for a, b in pairwise(drag)) < 0.06


def test_figures_are_rounded_as_people_read_them():
    assert [shown(value) for value in (1234.5, 12.34, -0.001, float("nan"), "x")] == ["1,234", "12.3", "0.00", "—", "x"]
    assert markdown(["a", "b"], [[1.5, "c"]]) == "| a | b |\n| --- | --- |\n| 1.50 | c |"
    assert percent(0.256) == "+25.6 %" and p50_p95([0.001, 0.002, 0.003])[0] == pytest.approx(2)
    assert ratio([4.0, 9.0, 6.0], [2.0, 3.0, 3.0]) == pytest.approx(2)  # pairs first, then the median


def test_bad_plans_are_refused(tiny: Path, tmp_path: Path):
    with pytest.raises(UnknownName, match="int4"):
        BenchConfig(tiny, tiny, dtype="int4")
    with pytest.raises(UnknownName, match="vllm"):
        BenchConfig(tiny, tiny, peers=("vllm",))
    with pytest.raises(InvalidValue, match="threads"):
        BenchConfig(tiny, tiny, threads=-1)
    with pytest.raises(BadArtifact, match="no adapter"):
        Harness(BenchConfig(tiny / "base", tiny / "base"))
    with pytest.raises(BadArtifact, match="no anchors folder"):
        adapters_in(tmp_path / "none")


def test_a_worker_that_cannot_start_says_why(tmp_path: Path):
    with Worker("llama.cpp", 1, base=str(tmp_path / "none"), adapters=[], context=8) as worker:
        with pytest.raises(WorkerFailed, match=r"cannot load|not installed"):
            worker.ready()
        with pytest.raises(WorkerFailed, match="has ended"):
            worker.ask("facts")


@given(st.integers(0, 1000), st.floats(0, 3))
def test_shared_noise_agrees_as_often_as_the_formula_says(seed: int, apart: float):
    """4,000 draws: four standard errors are at most 0.032."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(8, generator=generator).mul(2).softmax(0)
    q = (p.log() + apart * torch.randn(8, generator=generator)).softmax(0)
    p[0] = 0.0
    gumbel = noise(range(4000), [seed] * 4000, torch.arange(8)[None].expand(4000, 8))
    same = ((p.log() + gumbel).argmax(1) == (q.log() + gumbel).argmax(1)).float().mean()
    best, coupled = overlap(p / p.sum(), q)
    assert coupled == pytest.approx(float(same), abs=0.032)
    assert coupled <= best + 1e-6


def test_guesses_from_the_same_formula_always_hold(desk: Desk):
    params = SamplingParams(max_new_tokens=6, min_new_tokens=6, seed=3)
    found = acceptance(desk, "[0.5*humor]", "[0.5*humor]", PROMPT, [5, 6, 7, 8, 9, 10], params)
    assert found == pytest.approx({"best": 1.0, "coupled": 1.0})


def test_a_pass_a_term_writes_the_text_that_one_pass_writes(desk: Desk):
    text = '2*[0.5*humor.positive] - [base] @ "Dear" + 0.5*[formality.negative]'
    params = SamplingParams(max_new_tokens=12, min_new_tokens=12, seed=3)
    first = desk.logprobs(PROMPT, formula=text)
    with TermByTerm(desk, text, PROMPT, 12) as terms:
        assert torch.allclose(terms.logprobs(0, [])[0], first, atol=1e-4)
        tokens = terms.write(params)["tokens"]
        along = terms.along(tokens)
    output = desk.generate(PROMPT, params=params, formula=text)
    assert tokens == list(output.token_ids) and along.shape == (12, desk.model.vocab)


@given(st.lists(st.sampled_from([0.0, 0.125, -0.75, 1.5]), min_size=4, max_size=4).filter(any))
def test_a_term_is_written_so_that_it_is_read_as_the_mix_it_was(mix: list[float]):
    attributes = {f"slider{i:02}": Attribute(f"slider{i:02}", None, None, (f"n{i}", f"p{i}")) for i in range(2)}
    (branch,) = compile_formula(formula.written(mix), Vocabulary(attributes)).bound.branches
    names = [f"slider{i:02}.{pole}" for i in range(2) for pole in ("negative", "positive")]
    assert branch.mix == Mix(raw=dict(zip(names, mix, strict=True))) and not branch.follows


def test_a_row_of_guesses_counts_what_a_pass_yields():
    texts = [{"typical": 0.002, "tokens": [1] * 10, "acceptance": 0.5, "guessed": 5}] * 2
    row = formula.row_of(formula.FormulaMethod(2, formula.NGRAM, "", {}), texts)
    assert (row["tokens_per_second"], row["acceptance"], row["tokens_a_pass"]) == (500, 0.5, 2)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["decode", "batch", "moves", "formula"])
def test_a_quick_run_gates_and_reports(tiny: Path, capsys: pytest.CaptureFixture[str], what: str):
    words = ["--quick", "--threads", "1", "--base", str(tiny / "base"), "--anchors", str(tiny / "anchors")]
    chosen = ["--peers", "transformers", "peft", *(["llama.cpp"] if peers else [])]
    assert main(["bench", what, *words, *chosen, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    module = importlib.import_module(f"bench.{what}")
    text = module.table(report)
    assert "quick run" in text and "is wrong" not in text and "wrong" not in text.split()
    if what == "moves":
        gates = report["gates"]
        assert gates["reached_right"] and gates["same_weights"] and gates["recompiles"] == 0
        assert {row["rows"] for row in report["grid"]} == {1, 8} and len(report["traces"]) == 6
    elif what == "formula":
        (part,) = report["sections"]
        assert {row["terms"] for row in part["rows"]} == {1, 2, 4, 8} and len(part["rows"]) == 19
    else:
        assert report["missing"] == {} and "times as fast" in text
