"""The coupling report, on a tiny random desk with the shipped judges."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mixer import Desk
from mixer.cli import main
from mixer.errors import InvalidValue
from mixer.measure.coupling import CouplingReport, coupling
from tests.factory import make_adapter, make_base

PROMPTS = ("Once upon", "The boat", "A dog", "My friend", "Rain fell", "He said")


@pytest.fixture(scope="module")
def desk(tiny: Path) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu")


def measure(desk: Desk) -> CouplingReport:
    return coupling(desk, PROMPTS, each=(2, 2, 2), mixes=(2, 2), alone=(-1.0, 1.0), levels=(-1.0, 0.5), tokens=6)


@pytest.fixture(scope="module")
def report(desk: Desk) -> CouplingReport:
    return measure(desk)


def test_every_slider_is_moved_alone_and_each_level_is_asked_for_in_both_ways(report: CouplingReport):
    assert [(m.attribute, m.position) for m in report.moved] == [
        ("formality", -1.0),
        ("formality", 1.0),
        ("humor", -1.0),
        ("humor", 1.0),
    ]
    assert all(m.scores.keys() == m.errors.keys() == {"formality", "humor"} for m in report.moved)
    assert len(report.asks) == 8 and [w.way for w in report.wholes] == ["plain", "decoupled"]
    plain, decoupled = report.wholes
    mine = [a for a in report.asks if a.way == "decoupled"]
    assert decoupled.leaks == pytest.approx(sum(a.leak for a in mine) / 4, abs=2e-4)
    assert plain.reach == pytest.approx(sum(abs(a.own) for a in report.asks if a.way == "plain") / 4, abs=2e-4)


def test_a_report_repeats(desk: Desk, report: CouplingReport):
    again = measure(desk)
    assert again.asks == report.asks and again.errors == report.errors
    assert replace(again, calibration=report.calibration).record() == report.record()


def test_the_tables_have_a_row_for_each_level_and_for_each_way(report: CouplingReport):
    lines = report.table().splitlines()
    assert sum(line.startswith(("| formality", "| humor")) for line in lines) == 4
    assert sum(line.startswith(("| plain", "| decoupled")) for line in lines) == 2


def test_sliders_that_move_nothing_are_measured_as_such(tmp_path: Path):
    for name in ("formality/positive", "humor/positive"):
        make_adapter(make_base(tmp_path / "base"), tmp_path / "anchors" / name, init_lora_weights=True)
    report = measure(Desk.load(tmp_path / "base", tmp_path / "anchors", device="cpu"))
    assert all(one.share == one.reach == 0 for one in report.wholes)
    assert set(report.forecast.explained.values()) == {0.0}


def test_too_few_prompts_are_refused(desk: Desk):
    with pytest.raises(InvalidValue):
        coupling(desk, PROMPTS[:5], each=(2, 2, 2))


def test_the_command_writes_a_calibration_that_the_desk_loads(tiny: Path, tmp_path: Path, capsys):
    anchors = shutil.copytree(tiny / "anchors", tmp_path / "anchors")
    words = ["evaluate", "coupling", "--base", str(tiny / "base"), "--anchors", str(anchors), "--tokens", "4"]
    assert main([*words, "--prompts", "2", "2", "2", "--mixes", "2", "2", "--json"]) == 0
    found = Desk.load(tiny / "base", anchors, device="cpu").anchor_set.calibration
    assert found is not None and found.attributes == ("formality", "humor")
