"""Laws of calibrated sliders, on random calibrations and on the shipped one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer import Desk
from mixer.adapters.calibration import ENDS, SliderCalibration, fit
from mixer.adapters.calibration_file import FILE, load_calibration, write_calibration
from mixer.errors import BadArtifact
from mixer.resources import TINY_ANCHORS
from tests.factory import make_desk_folders

NAMES = ("formality", "humor", "poetry", "sentiment")
LIMIT = 1.5
share = st.floats(-1, 1)
asks = st.lists(st.floats(-LIMIT, LIMIT), min_size=4, max_size=4).map(np.array)


@st.composite
def calibrations(draw: st.DrawFn) -> SliderCalibration:
    """Sliders that move their own score most, up on one side and down on the other, and all others less."""

    def side(sign: float) -> np.ndarray:
        others = np.array(draw(st.lists(st.floats(-0.6, 0.6), min_size=16, max_size=16))).reshape(4, 4)
        own = draw(st.lists(st.floats(2, 5), min_size=4, max_size=4))
        return np.where(np.eye(4) > 0, sign * np.array(own), others)

    rest = np.array(draw(st.lists(st.floats(-1.5, 1.5), min_size=4, max_size=4)))
    leaving = np.array(draw(st.lists(st.floats(-0.7, 0.7), min_size=4, max_size=4)))
    return SliderCalibration(NAMES, rest, side(-1), side(1), leaving, LIMIT)


def positions_for(calibration: SliderCalibration, levels: np.ndarray) -> np.ndarray:
    found = calibration.positions(dict(zip(NAMES, levels.tolist(), strict=True)))
    return np.array([found.get(name, 0.0) for name in NAMES])


def squared_error(calibration: SliderCalibration, positions: np.ndarray, levels: np.ndarray) -> float:
    """Squared distance of all scores from the asked ones, in logits that are weighted as the solver weights them."""
    base = calibration.scores(np.zeros(4))
    found, wanted = (np.log(s / (1 - s)) for s in (calibration.scores(positions), calibration.targets(levels)))
    return float(((4 * base * (1 - base) * (found - wanted)) ** 2).sum())


def leak(calibration: SliderCalibration, positions: np.ndarray, own: int) -> float:
    """How much all other scores move."""
    moved = calibration.scores(positions) - calibration.scores(np.zeros(len(positions)))
    return float(np.abs(np.delete(moved, own)).sum())


@pytest.fixture(scope="module")
def shipped() -> SliderCalibration:
    record = json.loads((TINY_ANCHORS / FILE).read_text())
    found = load_calibration(TINY_ANCHORS / FILE, record["anchors_fingerprint"])
    assert found is not None
    return found


@given(calibrations())
def test_nothing_asked_is_everything_at_rest(calibration: SliderCalibration):
    assert calibration.positions({}) == {}
    assert calibration.positions(dict.fromkeys(NAMES, 0.0)) == {}


@given(calibrations(), asks)
def test_positions_are_within_the_limit_and_the_same_every_time(calibration: SliderCalibration, levels: np.ndarray):
    found = positions_for(calibration, levels)
    assert np.abs(found).max() <= LIMIT
    again = replace(calibration)
    assert (positions_for(again, levels) == found).all()


@given(calibrations(), asks, st.lists(share, min_size=4, max_size=4).map(np.array))
def test_a_little_more_asked_moves_positions_little(
    calibration: SliderCalibration, levels: np.ndarray, way: np.ndarray
):
    near = np.clip(levels + 0.005 * way, -LIMIT, LIMIT)
    assert np.abs(positions_for(calibration, near) - positions_for(calibration, levels)).max() <= 0.15


@given(calibrations(), asks)
def test_scores_come_closer_to_what_is_asked_than_with_the_sliders_there(
    calibration: SliderCalibration, levels: np.ndarray
):
    found = positions_for(calibration, levels)
    assert squared_error(calibration, found, levels) <= squared_error(calibration, levels, levels) + 1e-3


@given(calibrations(), asks)
def test_targets_lie_between_the_base_and_what_a_pole_alone_reaches(calibration: SliderCalibration, levels: np.ndarray):
    base = calibration.scores(np.zeros(4))
    assert calibration.targets(np.zeros(4)) == pytest.approx(base)
    poles = np.clip(np.diag(calibration.scores(np.diag(np.sign(levels)))), *ENDS)
    within = np.clip(levels, -1, 1)
    wanted = calibration.targets(within)
    assert (wanted >= np.minimum(base, poles) - 1e-9).all() and (wanted <= np.maximum(base, poles) + 1e-9).all()


@settings(max_examples=20)
@given(calibrations(), st.integers(0, 99))
def test_a_fit_finds_what_made_the_scores(calibration: SliderCalibration, seed: int):
    spots = np.random.default_rng(seed).uniform(-1, 1, (200, 4))
    found = fit(NAMES, spots, calibration.scores(spots), LIMIT)
    assert np.abs(found.scores(spots) - calibration.scores(spots)).max() < 0.04


def test_attributes_that_were_not_measured_stand_where_they_were_asked(shipped: SliderCalibration):
    assert shipped.positions({"charm": 0.4, "wit": 0.0}) == {"charm": 0.4}


def test_the_shipped_calibration_leaks_less_at_every_single_ask(shipped: SliderCalibration):
    axes = np.eye(len(shipped.attributes))
    for own, name in enumerate(shipped.attributes):
        for level in (-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0):
            found = shipped.positions({name: level})
            positions = np.array([found.get(other, 0.0) for other in shipped.attributes])
            assert leak(shipped, positions, own) < leak(shipped, level * axes[own], own), (name, level)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({"formality": 1}, [0.7374, 0.012, 0.4714, 0.0337, 0.0486, 0.2859]),
        ({"humor": -0.5}, [0.1381, -0.4284, 0.4235, 0.1104, 0.0367, -0.0575]),
        ({"poetry": 0.25, "sentiment": -0.75}, [0.1645, -0.0507, 0.6455, 0.1495, -0.5838, -0.0134]),
        ({"politeness": 1, "simplicity": 1, "humor": 0.5}, [0.4381, 0.1413, 0.8546, 0.8692, -0.0187, 0.903]),
        ({"formality": -1.5, "poetry": 1.5}, [-0.5867, -0.0177, 1.5, 0.2653, 0.0379, 0.0453]),  # one at its limit
        ({"sentiment": 0.1}, [0.0146, 0.0023, 0.0232, 0.004, 0.0576, -0.0082]),
    ],
)
def test_the_shipped_calibration_gives_the_recorded_positions(
    shipped: SliderCalibration, levels: dict[str, float], expected: list[float]
):
    """Recorded from a damped Newton solver, which an optimizer of scipy's replaced."""
    found = shipped.positions(levels)
    assert [found.get(name, 0.0) for name in shipped.attributes] == pytest.approx(expected, abs=1e-3)


def test_the_shipped_calibration_has_no_jumps(shipped: SliderCalibration):
    rng = np.random.default_rng(0)
    for _ in range(60):
        levels, way = rng.uniform(-1, 1, (2, len(shipped.attributes)))
        ends = [shipped.positions(dict(zip(shipped.attributes, x, strict=True))) for x in (levels, levels + 0.01 * way)]
        assert max(abs(ends[0].get(n, 0.0) - ends[1].get(n, 0.0)) for n in shipped.attributes) < 0.25


def test_a_file_brings_back_the_calibration_for_its_own_anchors_alone(shipped: SliderCalibration, tmp_path: Path):
    path = write_calibration(shipped, tmp_path, "f00d", {"note": "x"})
    found = load_calibration(path, "f00d")
    assert found is not None and found.positions({"formality": 0.5}) == shipped.positions({"formality": 0.5})
    assert load_calibration(path, "beef") is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record | {"format": 2},
        lambda record: record | {"above": [[1.0]]},
        lambda record: record | {"rest": [float("nan")] * 6},
        lambda record: record | {"limit": 0},
        lambda record: {"format": 1},
        lambda record: [],
    ],
)
def test_a_spoiled_file_is_refused(shipped: SliderCalibration, tmp_path: Path, spoil: Callable[[dict], object]):
    path = write_calibration(shipped, tmp_path, "f00d")
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(BadArtifact, match="coupling"):
        load_calibration(path, "f00d")


def test_only_a_desk_with_the_anchors_that_were_measured_has_a_calibration(tmp_path: Path):
    root = make_desk_folders(tmp_path)
    assert Desk.load(root / "base", root / "anchors").anchor_set.calibration is None
    shutil.copy(TINY_ANCHORS / FILE, root / "anchors" / FILE)
    assert Desk.load(root / "base", root / "anchors").anchor_set.calibration is None
    (root / "anchors" / FILE).write_text("{")
    with pytest.raises(BadArtifact, match="coupling"):
        Desk.load(root / "base", root / "anchors")
    desk = Desk.load(root / "base", root / "anchors", strict=False)
    assert len(desk.anchors) == 4 and len(desk.problems) == 1
