"""The memory report on a small model of the same kind."""

from __future__ import annotations

import json

import pytest

from bench.memory import BaseShape, bench_memory, table
from mixer.cli import main
from mixer.errors import InvalidValue


def test_the_default_shape_is_that_of_qwen2_5_1_5b():
    config = BaseShape().config()
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (1536, 8960, 28)
    assert (config.num_attention_heads, config.num_key_value_heads, config.vocab_size) == (12, 2, 151936)
    assert config.tie_word_embeddings


@pytest.mark.slow
def test_the_report_of_a_small_model_adds_up(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "memory", "--layers", "2", "--hidden", "256", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["anchors"] == 12 and report["moves"] == 1000
    # The base's bfloat16 numbers lie in memory, and the anchors beside them.
    grown = report["rss_base_mb"] - report["rss_start_mb"]
    assert 2e-6 * report["parameters"] * 0.9 < grown
    assert report["rss_peak_mb"] >= report["rss_desk_mb"] and report["rss_growth_mb"] < 20
    assert min(report["step_rest_ms"], report["step_live_ms"]) > 0
    assert 0 < report["move_set_us"] < 1e5 and 0 < report["move_apply_us"] < 1e5
    assert "12 anchors live" in table(report)


@pytest.mark.parametrize(("layers", "hidden"), [(0, 1536), (2, 100), (2, 0), (-1, 256)])
def test_shapes_that_cannot_be_are_refused(layers: int, hidden: int):
    with pytest.raises(InvalidValue, match="layers"):
        BaseShape(layers, hidden)


@pytest.mark.parametrize(("anchors", "moves"), [(0, 1), (3, 1), (2, 0)])
def test_counts_that_cannot_be_are_refused(anchors: int, moves: int):
    with pytest.raises(InvalidValue, match="anchors and"):
        bench_memory(BaseShape(1, 256, 8192), anchors, moves)
