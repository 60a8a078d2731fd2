"""The tables of a model card, from the reports that training and measuring left beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixer.errors import BadArtifact
from mixer.measure.control import ControlReport
from mixer.values.mix import POLES

Reports = Mapping[str, Mapping[str, Any]]


def read_report(path: Path) -> Any:
    """Read a JSON report.

    Raises:
        BadArtifact: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(f"The report {path} cannot be read: {error}.", "Train that part again.") from error


def anchor_reports(anchors: Path) -> dict[str, Any]:
    """The reports of the anchors' training, by `ATTRIBUTE.POLE`."""
    paths = [home / pole / "training.json" for home in sorted(anchors.iterdir()) for pole in POLES]
    return {f"{path.parent.parent.name}.{path.parent.name}": read_report(path) for path in paths if path.is_file()}


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table."""
    lines = [" | ".join(head), "|".join(["---"] * len(head)), *(" | ".join(map(str, row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def anchor_table(reports: Reports) -> str:
    """A row for each anchor: what it learned from, for how long, and its losses on held-out pairs."""
    head = ("anchor", "pairs", "other texts", "seconds", "loss, own pole", "loss, other pole", "prefers its pole")
    rows = []
    for name, report in reports.items():
        figures = ("not measured",) * 3
        if report["test_pairs"]:
            figures = (
                *(
                    f"{report[f'{side}_loss_base']:.2f} → {report[f'{side}_loss_anchor']:.2f}"
                    for side in ("own", "other")
                ),
                f"{100 * report['pair_accuracy']:.0f} % of {report['test_pairs']}",
            )
        rows.append((name, report["pairs"], report["unpaired"], round(report["seconds"]), *figures))
    return markdown_table(head, rows)


def head_table(reports: Reports) -> str:
    """A row for each reward head: what it learned from, and how closely it follows its reward model."""
    head = ("head", "learned from", "rank", "places", "centred R²", "correlation", "same best token")
    rows = []
    for name, report in reports.items():
        held_out = report.get("held_out", {})
        figures = [
            f"{held_out[key]:.2f}" if key in held_out else "–"
            for key in ("centred_r2", "centred_correlation", "argmax_agreement")
        ]
        source = {"rad": "a reward model", "responses": "labelled texts"}.get(report.get("source", ""), "–")
        rows.append((name, source, report["rank"], report.get("places", "–"), *figures))
    return markdown_table(head, rows)


def judge_table(reports: Reports) -> str:
    """A row for each judge: its measures on the test split."""
    columns = {
        "pairs: accuracy": ("pairs", "accuracy"),
        "AUC": ("pairs", "auc"),
        "calibration error": ("pairs", "calibration_error"),
        "texts": ("pairs", "n"),
        "windows: accuracy": ("pairs_in_windows", "accuracy"),
        "unpaired: accuracy": ("unpaired", "accuracy"),
        "unpaired: AUC": ("unpaired", "auc"),
        "unpaired: texts": ("unpaired", "n"),
    }
    rows = []
    for name, report in reports.items():
        figures = []
        for part, key in columns.values():
            value = report[part][key] if "accuracy" in report.get(part, {}) else "–"
            figures.append(f"{value:.3f}" if isinstance(value, float) else value)
        rows.append((name, *figures))
    return markdown_table(("judge", *columns), rows)


def leak_table(coupling: Mapping[str, Any]) -> str:
    """The two ways of asking for a level, plain and decoupled, from the report in `coupling.json`."""
    head = ("sliders", "own score moves by", "other scores move by", "by chance alone", "leak / own")
    rows = [
        (
            one["way"],
            f"{one['reach']:.3f} ± {one['reach_error']:.3f}",
            f"{one['leaks']:.3f} ± {one['leaks_error']:.3f}",
            f"{one['floor']:.3f}",
            f"{one['share']:.2f} ± {one['share_error']:.2f}",
        )
        for one in coupling["wholes"]
    ]
    return markdown_table(head, rows)


def cost_of_poles(reports: Sequence[ControlReport]) -> str:
    """A sentence on the perplexity at the far poles, over that at rest; empty where it was not measured."""
    ratios = []
    for report in reports:
        rest = {m.attribute: m.perplexity for m in report.measures if m.position == 0}
        for measured in report.measures:
            at_rest = rest.get(measured.attribute)
            if abs(measured.position) == 1 and measured.perplexity and at_rest:
                ratios.append(measured.perplexity / at_rest)
    if not ratios:
        return ""
    return f"At -1 and 1 the perplexity under the base is {min(ratios):.1f} to {max(ratios):.1f} times that at rest. "


def as_time(seconds: float) -> str:
    """Seconds as people write them: `48 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
