"""Laws of the report on steering: its tables say what it holds, and its charts hold every method."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

from bench.steering_study.comparison import MethodComparison
from bench.steering_study.report import TARGETS, CurveSummary, DivergencePoint, SliderPoint, SteeringReport

AROUND = (0.5, 0.6)


def curve(name: str, gain: float) -> CurveSummary:
    points = tuple(
        SliderPoint(
            s, 0.5 + gain * s, AROUND, 40 + s, (38, 44), (0.5, 0.9, 1.0), 0.01 * s, AROUND, 0.4 * s * s, AROUND, s, 9
        )
        for s in (0.0, 0.5, 1.0, 2.0)
    )
    return CurveSummary(
        name, points, tuple(DivergencePoint(t, 0.5 + gain * t**0.5, AROUND, 41.0, (40, 42)) for t in TARGETS[:-1])
    )


REPORT = SteeringReport(
    attribute="toxicity",
    sign=-1.0,
    anchor="politeness",
    prompts=40,
    source="openings",
    lean=0.5,
    tokens=32,
    seed=7,
    reach=20,
    budget=1.0,
    margin=0.02,
    fluency="the base itself",
    curves=(curve("RAD", -0.1), curve("ARM <fused>", -0.05)),
    comparisons=(MethodComparison("ARM <fused>", "RAD", 0.5, -0.03, (-0.04, -0.025), 1.1, (1.02, 1.2), 0.1),),
)


def test_the_tables_have_a_row_an_arm_and_one_for_the_base():
    divergence_points, _, comparisons = REPORT.table().partition("\n\n")
    assert divergence_points.splitlines()[2].startswith("| base | 0.500 (40) |")
    assert "| RAD | 0.468 ± 0.050 (41) |" in divergence_points and divergence_points.splitlines()[3].endswith("|  |")
    assert (
        "| ARM <fused> | 0.5 | -0.030 (-0.040 to -0.025) | 1.10 (1.02 to 1.20) | weaker, less fluent |" in comparisons
    )
    for table in (divergence_points, comparisons, REPORT.details()):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_details_have_the_base_once_and_sliders_with_their_sign():
    rows = REPORT.details().splitlines()[2:]
    assert rows[0].startswith("| base | +0 |")
    assert len(rows) == 7 and [row.startswith("| base") for row in rows] == [True] + 6 * [False]
    assert rows[1].startswith("| RAD | -0.5 | 0.450 | 40 | 0.50, 0.90, 1.00 | 0.005 | 0.100 | 0.50 |")


def test_the_report_as_json_redraws_the_charts():
    record = json.loads(REPORT.to_json())
    again = [
        CurveSummary(
            one["method"],
            tuple(SliderPoint(**p) for p in one["points"]),
            tuple(DivergencePoint(**point) for point in one["divergence_points"]),
        )
        for one in record["curves"]
    ]
    assert replace(REPORT, curves=tuple(again)).plots() == REPORT.plots()
    assert record["comparisons"][0]["interval"] == [-0.04, -0.025]
    assert record["comparisons"][0]["verdict"] == "weaker, less fluent"


def test_both_charts_hold_every_arm():
    plots = REPORT.plots()
    assert sorted(plots) == ["toxicity-divergence.svg", "toxicity-perplexity.svg"]
    for svg in plots.values():
        groups = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}g")
        assert {"RAD", "ARM <fused>"} <= {group.attrib.get("data-series") for group in groups}
