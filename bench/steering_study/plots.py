"""Line charts as SVG: a few lines with markers and error bars, readable on white and on dark, without a library.

Every color has a contrast of at least 3 to both grounds, and lines differ in marker and dash too, so that they can be
told apart without colors. Text is text. Knows nothing of what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

Scale = Literal["linear", "root", "log"]
INK = "#7a7a7a"
# After Okabe and Ito (2008), the light ones darkened.
COLORS = ("#d55e00", "#0f7ac0", "#3a93c9", "#009e73", "#8a8a8a", "#b07d00", "#c05a94")
DASHES = ("", "", "7 3", "2 3", "1 4", "9 3 2 3", "")
MARKERS = ("square", "circle", "circle-open", "triangle", "cross", "diamond", "diamond-open")
WIDTH, HEIGHT = 860, 470
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 46, 56
LINE_HEIGHT, TICK_ROOM = 16, 38
FONT = "font-family='system-ui, Segoe UI, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class ChartPoint:
    """One marker, with bars to both sides in each direction where they are known."""

    x: float
    y: float
    x_bar: tuple[float, float] | None = None
    y_bar: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """One line; its name stands at its end."""

    name: str
    points: Sequence[ChartPoint]


@dataclass(frozen=True)
class Axis:
    """A title, a scale, and the part to show; None for as much as there is."""

    title: str
    scale: Scale = "linear"
    least: float | None = None
    most: float | None = None


def line_chart(title: str, x: Axis, y: Axis, series: Sequence[Series], note: str = "") -> str:
    """An SVG document. Lines are straight on the axes' scales, and cut where they leave what is shown."""
    points = [point for one in series for point in one.points]
    across = _Place(x, [s.x for s in points], LEFT, WIDTH - RIGHT)
    up = _Place(y, [v for s in points for v in (s.y, *(s.y_bar or ()))], HEIGHT - BOTTOM, TOP)
    parts = [*_frame(title, note, across, up), "<g clip-path='url(#plane)'>"]
    ends: list[tuple[float, int]] = []
    for place, one in enumerate(series):
        parts.append(_line(one, place, across, up))
        if one.points:
            ends.append((_end(one.points, across, up), place))
    parts.append("</g>")
    for (_, place), height in zip(sorted(ends), _apart([end for end, _ in sorted(ends)]), strict=True):
        parts.append(_label(series[place].name, place, height))
    size = f"viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size} {FONT} font-size='12'>\n" + "\n".join(parts) + "\n</svg>\n"


class _Place:
    """Where the values of an axis lie, in pixels."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        self.axis, self._start, self._end = axis, start, end
        least = min(values) if axis.least is None else axis.least
        most = max(values) if axis.most is None else axis.most
        if axis.least is None and axis.scale == "linear":
            least -= 0.04 * (most - least)
        if axis.most is None:
            most = most * 1.04 if axis.scale != "linear" else most + 0.04 * (most - least)
        if axis.scale == "log":
            least = max(least, 1e-9) / (1.04 if axis.least is None else 1)
        self.least, self.most = least, most if most > least else least + 1
        self._bend: Callable[[float], float] = {
            "linear": float,
            "root": lambda value: math.sqrt(max(value, 0.0)),
            "log": lambda value: math.log(max(value, 1e-9)),
        }[axis.scale]

    def __call__(self, value: float) -> float:
        low, high = self._bend(self.least), self._bend(self.most)
        return self._start + (self._bend(value) - low) / (high - low) * (self._end - self._start)

    def shows(self, value: float) -> bool:
        return self.least <= value <= self.most

    def ticks(self) -> list[float]:
        """Round numbers, some five of them."""
        if self.axis.scale == "linear":
            wanted = (self.most - self.least) / 5
            step = 10 ** math.floor(math.log10(wanted))
            step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= wanted)
            first = math.ceil(self.least / step - 1e-9)
            return [i * step for i in range(first, math.floor(self.most / step + 1e-9) + 1)]
        lowest, highest = (math.floor(math.log10(max(v, self.most / 1000))) for v in (self.least, self.most))
        rounded = [factor * 10.0**decade for decade in range(lowest, highest + 1) for factor in (1, 2, 3, 5, 7)]
        found: list[float] = []
        for value in (0.0, *sorted(rounded, reverse=True)):  # from the outer end, where there is room
            if self.shows(value) and all(abs(self(value) - self(other)) >= TICK_ROOM for other in found):
                found.append(value)
        return sorted(found)


def _frame(title: str, note: str, x: _Place, y: _Place) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    plane = f"x='{LEFT}' y='{TOP}' width='{right - LEFT}' height='{bottom - TOP}'"
    parts = [
        f"<title>{escape(title)}</title>",
        f"<clipPath id='plane'><rect {plane}/></clipPath>",
        f"<text x='{LEFT}' y='24' font-size='15' font-weight='600' fill='{INK}'>{escape(title)}</text>",
    ]
    for value in x.ticks():
        parts.append(f"<path d='M{x(value):.1f} {TOP}V{bottom}' stroke='{INK}' stroke-opacity='.25'/>")
        parts.append(_text(f"{value:g}", x(value), bottom + 18, "middle"))
    for value in y.ticks():
        parts.append(f"<path d='M{LEFT} {y(value):.1f}H{right}' stroke='{INK}' stroke-opacity='.25'/>")
        parts.append(_text(f"{value:g}", LEFT - 8, y(value) + 4, "end"))
    parts.append(f"<path d='M{LEFT} {TOP}V{bottom}H{right}' fill='none' stroke='{INK}'/>")
    parts.append(_text(x.axis.title, (LEFT + right) / 2, HEIGHT - 16, "middle"))
    middle = (TOP + bottom) / 2
    parts.append(f"<g transform='rotate(-90 16 {middle})'>{_text(y.axis.title, 16, middle + 4, 'middle')}</g>")
    if note:
        parts.append(_text(note, right, 24, "end"))
    return parts


def _text(text: str, x: float, y: float, anchor: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{INK}'>{escape(text)}</text>"


def _line(one: Series, place: int, x: _Place, y: _Place) -> str:
    color, dash = COLORS[place % len(COLORS)], DASHES[place % len(DASHES)]
    points = " ".join(f"{x(point.x):.1f},{y(point.y):.1f}" for point in one.points)
    parts = [f"<polyline points='{points}' fill='none' stroke='{color}' stroke-width='2' stroke-dasharray='{dash}'/>"]
    for point in one.points:
        at_x, at_y = x(point.x), y(point.y)
        if point.y_bar:
            low, high = map(y, point.y_bar)
            parts.append(f"<path d='M{at_x:.1f} {low:.1f}V{high:.1f}' stroke='{color}' stroke-opacity='.6'/>")
        if point.x_bar:
            low, high = map(x, point.x_bar)
            parts.append(f"<path d='M{low:.1f} {at_y:.1f}H{high:.1f}' stroke='{color}' stroke-opacity='.6'/>")
        parts.append(_marker(place, at_x, at_y))
    return f"<g data-series='{escape(one.name, {chr(39): '&apos;'})}'>{''.join(parts)}</g>"


def _marker(place: int, x: float, y: float) -> str:
    color, (kind, _, hollow) = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)].partition("-")
    if kind == "circle":
        shape = f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z"
    elif kind == "square":
        shape = f"M{x - 3.5:.1f} {y - 3.5:.1f}h7v7h-7z"
    elif kind == "triangle":
        shape = f"M{x:.1f} {y - 4.5:.1f}l4.5 8h-9z"
    elif kind == "diamond":
        shape = f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"
    else:
        shape = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
    fill = "none" if hollow or kind == "cross" else color
    return f"<path d='{shape}' fill='{fill}' stroke='{color}' stroke-width='1.6'/>"


def _end(points: Sequence[ChartPoint], x: _Place, y: _Place) -> float:
    """The height at which a line ends, or leaves what is shown."""
    last = max((i for i, point in enumerate(points) if x.shows(point.x) and y.shows(point.y)), default=0)
    height = y(points[last].y)
    if last + 1 < len(points) and x(points[last + 1].x) > x(x.most):
        start, beyond = x(points[last].x), x(points[last + 1].x)
        height += (x(x.most) - start) / (beyond - start) * (y(points[last + 1].y) - height)
    return min(max(height, TOP), HEIGHT - BOTTOM)


def _label(name: str, place: int, height: float) -> str:
    """A line's name beside its end, behind a piece of the line."""
    x, color = WIDTH - RIGHT + 12, COLORS[place % len(COLORS)]
    dash = DASHES[place % len(DASHES)]
    piece = f"<path d='M{x} {height:.1f}h30' stroke='{color}' stroke-width='2' stroke-dasharray='{dash}'/>"
    text = f"<text x='{x + 36}' y='{height + 4:.1f}' fill='{color}'>{escape(name)}</text>"
    return piece + _marker(place, x + 15, height) + text


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights of labels, ascending, moved so that none covers another and all lie beside the plane."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + LINE_HEIGHT) if placed else max(height, TOP + 6))
    room = HEIGHT - BOTTOM
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], room)
        room = placed[i] - LINE_HEIGHT
    return placed
