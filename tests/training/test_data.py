"""Laws of the splits and of the pairs that ship."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import BadArtifact
from mixer.training.data import ATTRIBUTES, attributes_with_pairs, find_pairs, split_of, split_pairs


@given(st.text())
def test_every_text_has_one_split_and_keeps_it(text: str):
    assert split_of(text) in ("anchor", "judge", "test") and split_of(text) == split_of(text)


def test_splits_do_not_move():
    assert [split_of(f"text {i}") for i in (0, 3, 8)] == ["test", "anchor", "judge"]


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_shipped_pairs_fall_apart_into_the_splits_and_share_their_opening(attribute: str):
    pairs = find_pairs(None, attribute)
    parts = {split: {p.opening for p in split_pairs(pairs, split)} for split in ("anchor", "judge", "test")}
    few = attribute in ("archaic", "excitement")
    assert len(pairs) == (200 if few else 616) == sum(map(len, parts.values())) == len(set().union(*parts.values()))
    assert len(parts["anchor"]) > len(parts["judge"]) > len(parts["test"]) > (15 if few else 40)
    for pair in pairs:
        assert pair.positive.startswith(pair.opening) and pair.negative.startswith(pair.opening)
        assert pair.positive != pair.negative


def test_a_data_folder_comes_before_what_ships(tmp_path: Path):
    (tmp_path / "pairs").mkdir()
    with lzma.open(tmp_path / "pairs" / "humor.jsonl.xz", "wt") as file:
        file.write('{"opening": "A", "positive": "A b", "negative": "A c"}\n')
    assert len(find_pairs(tmp_path, "humor")) == 1 and len(find_pairs(tmp_path, "poetry")) == 616
    assert attributes_with_pairs(tmp_path) == attributes_with_pairs(None) == tuple(sorted(ATTRIBUTES))


def test_a_broken_pair_names_its_line(tmp_path: Path):
    (tmp_path / "humor.jsonl").write_text('{"opening": "A", "positive": "A b", "negative": "A c"}\n{}\n')
    with pytest.raises(BadArtifact, match="line 2"):
        find_pairs(None, "humor", tmp_path)
