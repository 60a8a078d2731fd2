"""The card's samples: thirty, in both forms, at several positions, by their seeds, and kept for the same anchors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import Desk, SamplingParams
from mixer.measure.card_samples import SAMPLES, kept_samples, sample_mixes, write_samples
from tests.model.test_chat_template import CHATML


@pytest.fixture(scope="module")
def desk(tiny: Path) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu")


@given(st.lists(st.sampled_from("abcdefghijkl"), unique=True), st.integers(1, 60))
def test_the_first_mix_is_at_rest_and_every_attribute_has_its_turn(names: list[str], count: int):
    mixes = sample_mixes(names, count)
    assert len(mixes) == count and mixes[0] == {} and all(len(mix) <= 1 for mix in mixes)
    for name in names[: (count - 1) // 2]:
        signs = {mix[name] > 0 for mix in mixes if name in mix}
        assert signs == {True, False}, "both poles"


def test_samples_are_the_desk_s_texts_by_their_seeds(desk: Desk):
    samples = write_samples(desk, 10, tokens=4)
    assert [sample.seed for sample in samples] == list(range(10)) and not any(sample.reply for sample in samples)
    one = samples[3]
    again = desk.generate(one.prompt, desk.mix(one.mix), SamplingParams(max_new_tokens=4, seed=3))
    assert one.text == again.text


def test_half_are_replies_where_the_base_has_a_chat_template(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk.tokenizer, "chat_template", CHATML)
    samples = write_samples(desk, SAMPLES, tokens=2)
    assert len(samples) == SAMPLES and [sample.reply for sample in samples] == [False] * 15 + [True] * 15
    assert samples[0].mix == samples[15].mix == {} and samples[15].prompt.endswith(".")
    assert {position for sample in samples for position in sample.mix.values()} == {-1.0, -0.5, 0.5, 1.0}


def test_samples_of_the_same_anchors_are_kept(desk: Desk, tmp_path: Path):
    path = tmp_path / "samples.json"
    path.write_text("[]")  # of an older form
    first = kept_samples(desk, path)
    written = path.stat().st_mtime_ns
    assert kept_samples(desk, path) == first and path.stat().st_mtime_ns == written
    path.write_text(path.read_text().replace('"anchors_fingerprint": "', '"anchors_fingerprint": "0'))
    assert kept_samples(desk, path) == first and path.stat().st_mtime_ns != written
