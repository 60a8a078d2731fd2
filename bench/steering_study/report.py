"""A report on steered texts: every method's figures along its slider and at equal divergence, as tables and as charts.

Knows nothing of how texts are written or scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.steering_study.comparison import Interval, MethodComparison
from bench.steering_study.plots import Axis, ChartPoint, Series, line_chart

TARGETS = (0.1, 0.25, 0.5, 1.0)  # nats a token


@dataclass(frozen=True)
class SliderPoint:
    """One method at one slider value. Intervals are over prompts; `distinct` is of words, pairs and triples."""

    slider: float
    score: float
    score_interval: Interval
    perplexity: float
    perplexity_interval: Interval
    distinct: tuple[float, ...]
    repetition: float
    repetition_interval: Interval
    nats: float
    nats_interval: Interval
    most_nats: float
    tokens: int


@dataclass(frozen=True)
class DivergencePoint:
    """One method at one divergence, between two sliders."""

    nats: float
    score: float
    score_interval: Interval
    perplexity: float
    perplexity_interval: Interval


@dataclass(frozen=True)
class CurveSummary:
    """One method along its slider, and at the divergences of `TARGETS` that it reaches."""

    method: str
    points: tuple[SliderPoint, ...]
    divergence_points: tuple[DivergencePoint, ...]


@dataclass(frozen=True)
class SteeringReport:
    """All methods of one attribute.

    Attributes:
        sign: 1 where sliders go toward the attribute, -1 where away from it.
        anchor: the slider of the LoRA methods.
        lean: the judge's mean score of the prompts themselves.
        fluency: whose perplexities these are.
    """

    attribute: str
    sign: float
    anchor: str
    prompts: int
    source: str
    lean: float
    tokens: int
    seed: int
    reach: int
    budget: float
    margin: float
    fluency: str
    curves: tuple[CurveSummary, ...]
    comparisons: tuple[MethodComparison, ...]

    def table(self) -> str:
        """Two markdown tables: methods at equal divergence, and against RAD."""
        heads = [f"at {target:g} nats" for target in TARGETS]
        lines = [f"| {self.attribute} | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        rest = self.curves[0].points[0]
        lines.append(f"| base | {rest.score:.3f} ({rest.perplexity:.0f}) |" + " |" * (len(heads) - 1))
        for curve in self.curves:
            cells = {point.nats: _cell(point) for point in curve.divergence_points}
            lines.append(f"| {curve.method} | {' | '.join(cells.get(target, '') for target in TARGETS)} |")
        lines += ["", "| against RAD | nats | difference | perplexity ratio | verdict |", "|---" * 5 + "|"]
        for one in self.comparisons:
            gap = f"{one.difference:+.3f} ({one.interval[0]:+.3f} to {one.interval[1]:+.3f})"
            ratio = f"{one.ratio:.2f} ({one.ratio_interval[0]:.2f} to {one.ratio_interval[1]:.2f})"
            lines.append(f"| {one.method} | {one.nats:g} | {gap} | {ratio} | {one.verdict} |")
        return "\n".join(lines)

    def details(self) -> str:
        """A markdown table, one method at one slider value a row."""
        lines = [
            f"| {self.attribute} | slider | score | perplexity | distinct 1, 2, 3 | repeated | nats, mean | most |",
            "|---" * 8 + "|",
        ]
        for curve in self.curves:
            for point in curve.points if curve is self.curves[0] else curve.points[1:]:
                shares = ", ".join(f"{share:.2f}" for share in point.distinct)
                figures = [f"{point.score:.3f}", f"{point.perplexity:.0f}", shares, f"{point.repetition:.3f}"]
                figures += [f"{point.nats:.3f}", f"{point.most_nats:.2f}"]
                name = curve.method if point.slider else "base"
                lines.append(f"| {name} | {self.sign * point.slider or 0.0:+g} | {' | '.join(figures)} |")
        return "\n".join(lines)

    def plots(self) -> dict[str, str]:
        """SVG documents by file name: score against divergence, and against perplexity."""
        name, note = self.attribute.capitalize(), f"95 % intervals over {self.prompts} prompts"
        score, far = Axis(f"judge's {self.attribute} score"), max(c.points[-1].nats for c in self.curves[:2])
        nats = [
            Series(c.method, [ChartPoint(p.nats, p.score, None, p.score_interval) for p in c.points])
            for c in self.curves
        ]
        fluent = [
            Series(
                c.method, [ChartPoint(p.perplexity, p.score, p.perplexity_interval, p.score_interval) for p in c.points]
            )
            for c in self.curves
        ]
        most = 3 * max(p.perplexity for c in self.curves[:2] for p in c.points)
        most = min(most, 1.05 * max(p.perplexity for c in self.curves for p in c.points))
        away = Axis("divergence from the base, nats a token", "root", 0.0, max(far, 1.2 * TARGETS[-1]))
        return {
            f"{self.attribute}-divergence.svg": line_chart(f"{name} by divergence", away, score, nats, note),
            f"{self.attribute}-perplexity.svg": line_chart(
                f"{name} by perplexity", Axis("perplexity", "log", None, most), score, fluent, note
            ),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SteeringReport:
        """A report from what `to_json` wrote.

        Raises:
            KeyError, TypeError: it is none.
        """
        curves = tuple(
            CurveSummary(
                curve["method"],
                tuple(SliderPoint(**point) for point in curve["points"]),
                tuple(DivergencePoint(**point) for point in curve["divergence_points"]),
            )
            for curve in record["curves"]
        )
        own = [{name: one[name] for name in one if name != "verdict"} for one in record["comparisons"]]
        comparisons = tuple(MethodComparison(**one) for one in own)
        return cls(**{**record, "curves": curves, "comparisons": comparisons})

    def to_json(self) -> str:
        record = asdict(self)
        record["comparisons"] = [asdict(one) | {"verdict": one.verdict} for one in self.comparisons]
        return json.dumps(record, indent=2)


def _cell(point: DivergencePoint) -> str:
    half = (point.score_interval[1] - point.score_interval[0]) / 2
    return f"{point.score:.3f} ± {half:.3f} ({point.perplexity:.0f})"
