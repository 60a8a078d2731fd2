"""Laws of charts: they are XML, hold every line and every point, and can be read on white and on dark."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.steering_study.plots import (
    BOTTOM,
    COLORS,
    HEIGHT,
    INK,
    LINE_HEIGHT,
    TOP,
    Axis,
    ChartPoint,
    Scale,
    Series,
    _apart,
    _Place,
    line_chart,
)

SVG = "{http://www.w3.org/2000/svg}"
SPOTS = [ChartPoint(0.0, 0.5, (0.0, 0.1), (0.4, 0.6)), ChartPoint(0.5, 0.6), ChartPoint(2.0, 0.7, None, (0.6, 0.75))]
numbers = st.floats(0, 1e4, allow_nan=False)


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", [INK, *COLORS])
def test_colors_stand_out_on_white_and_on_dark(color: str):
    light = luminance(color) + 0.05
    assert 1.05 / light >= 3 and light / (luminance("#0d1117") + 0.05) >= 3
    assert len({*COLORS}) == len(COLORS)


def test_a_chart_holds_its_titles_every_series_and_every_spot():
    series = [Series("RAD <k = 20>", SPOTS), Series('it\'s "ARM" & more', SPOTS[:2]), Series("none", [])]
    root = parsed(line_chart("A & B", Axis("nats", "root"), Axis("score"), series, "370 prompts"))
    groups = {group.attrib["data-series"]: group for group in root.iter(f"{SVG}g") if "data-series" in group.attrib}
    assert list(groups) == [one.name for one in series]
    for one in series:
        line = groups[one.name].find(f"{SVG}polyline")
        assert line is not None and len(line.attrib["points"].split()) == len(one.points)
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"A & B", "nats", "score", "370 prompts", series[0].name, series[1].name} <= texts
    bars = sum(bool(point.x_bar) + bool(point.y_bar) for point in SPOTS)
    assert len(list(groups[series[0].name].iter(f"{SVG}path"))) == len(SPOTS) + bars


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6),
    st.sampled_from(["linear", "root", "log"]),
    st.sampled_from(["linear", "log"]),
)
def test_any_numbers_make_a_chart_with_all_spots_inside(points: list[tuple[float, float]], x: Scale, y: Scale):
    series = [Series("one", [ChartPoint(a + 0.5, b + 0.5) for a, b in points])]
    root = parsed(line_chart("T", Axis("x", x), Axis("y", y), series))
    line = next(root.iter(f"{SVG}polyline"))
    for point in line.attrib["points"].split():
        assert all(-0.5 <= float(number) <= 900 for number in point.split(","))


@given(st.sampled_from(["linear", "root", "log"]), st.floats(0.01, 100), st.floats(1.2, 1e4))
def test_ticks_lie_inside_in_order_and_apart(scale: Scale, least: float, times: float):
    place = _Place(Axis("x", scale, least, least * times), [], 0, 600)
    ticks = place.ticks()
    where = [place(tick) for tick in ticks]
    assert where == sorted(where) and all(-1e-6 <= pixel <= 600 + 1e-6 for pixel in where)
    assert len(ticks) < 20 and all(b - a > 30 for a, b in pairwise(where))


def test_the_root_scale_begins_at_zero():
    place = _Place(Axis("nats", "root", 0, 4), [], 0, 600)
    assert place(0) == 0 and place(1) == 300 and place(4) == 600 and place.ticks()[0] == 0


@given(st.lists(st.floats(TOP, HEIGHT - BOTTOM), min_size=1, max_size=8))
def test_labels_never_cover_each_other(heights: list[float]):
    placed = _apart(sorted(heights))
    assert all(b - a >= LINE_HEIGHT - 1e-6 for a, b in pairwise(placed))
    assert placed[0] >= TOP and placed[-1] <= HEIGHT - BOTTOM
