"""From times to figures, and from figures to markdown tables. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def p50_p95(seconds: Sequence[float], scale: float = 1e3) -> tuple[float, float]:
    """Median and 95th percentile of times in seconds, multiplied by `scale`; milliseconds by default."""
    p50, p95 = np.percentile(np.asarray(seconds) * scale, [50, 95])
    return float(p50), float(p95)


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times faster `fast` is than `slow`: the median of the ratios of all rounds."""
    return float(np.median(np.asarray(slow) / np.asarray(fast)))


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table; floats have about three significant digits."""
    lines = [head, ["---"] * len(head), *[[shown(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: object) -> str:
    """A figure as a table shows it; NaN is a dash."""
    if isinstance(value, float):
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return "—" if value != value else f"{round(value, digits) + 0.0:,.{digits}f}"  # no "-0.00"
    return str(value)


def percent(share: float) -> str:
    """A share as a signed percentage."""
    return f"{100 * share:+.1f} %"
