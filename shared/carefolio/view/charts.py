"""Charts as SVG, drawn on the server: values over time with the range that is usual. A table always stands behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from carefolio.view.telling import LONDON

_WIDE, _HIGH = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 34
_TICKS = 4


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a time; ``outside`` of what was usual for it."""

    at: datetime
    value: float
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """The points of one quantity, in any order."""

    name: str
    points: Sequence[Point]


def line_chart(
    title: str, lines: Sequence[Line], unit: str, low: float | None = None, high: float | None = None
) -> str:
    """The SVG of one or two lines; what is outside is a diamond and not only another colour. Empty for no points."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    bottom, top = _bounds([point.value for point in points], low, high)
    first, last = min(point.at for point in points), max(point.at for point in points)
    seconds = max((last - first).total_seconds(), 1.0)

    def x(at: datetime) -> float:
        if first == last:
            return (_LEFT + _WIDE - _RIGHT) / 2
        return _LEFT + (at - first).total_seconds() / seconds * (_WIDE - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HIGH - _BOTTOM - (value - bottom) / (top - bottom) * (_HIGH - _TOP - _BOTTOM)

    said = f"{title}: {len(points)} value{'s' if len(points) > 1 else ''} from {_day(first)} to {_day(last)}"
    drawn = [
        f'<svg class="chart" viewBox="0 0 {_WIDE} {_HIGH}" role="img"'
        f' aria-label="{escape(said)}. All are listed below.">',
    ]
    if low is not None or high is not None:
        upper = y(min(high, top)) if high is not None else _TOP
        lower = y(max(low, bottom)) if low is not None else _HIGH - _BOTTOM
        drawn.append(f'<rect class="usual" x="{_LEFT}" y="{upper:.1f}" width="{_WIDE - _LEFT - _RIGHT}"'
                     f' height="{max(lower - upper, 1):.1f}"/>')  # fmt: skip
    drawn += [
        f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_WIDE - _RIGHT}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{y(value) + 5:.1f}" text-anchor="end">{value:g}</text>'
        for value in _ticks(bottom, top)
    ]
    drawn.append(f'<text class="tick" x="{_LEFT}" y="{_HIGH - 10}">{_day(first)}</text>')
    if first != last:
        drawn.append(f'<text class="tick" x="{_WIDE - _RIGHT}" y="{_HIGH - 10}" text-anchor="end">{_day(last)}</text>')
    for number, line in enumerate(lines, 1):
        ordered = sorted(line.points, key=lambda point: point.at)
        path = " ".join(f"{x(point.at):.1f},{y(point.value):.1f}" for point in ordered)
        drawn.append(f'<polyline class="line line-{number}" points="{path}"/>')
        drawn += [_mark(point, x(point.at), y(point.value), unit, number) for point in ordered]
    return "".join([*drawn, "</svg>"])


def _mark(point: Point, x: float, y: float, unit: str, number: int) -> str:
    told = f"<title>{_day(point.at)}: {point.value:g} {escape(unit)}</title>"
    if point.outside:
        return f'<path class="outside" d="M{x:.1f} {y - 7:.1f}l7 7-7 7-7-7z">{told}</path>'
    return f'<circle class="point point-{number}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{told}</circle>'


def _bounds(values: Sequence[float], low: float | None, high: float | None) -> tuple[float, float]:
    """From where to where the axis goes: all values, the usual range, and a little room."""
    every = [*values, *(each for each in (low, high) if each is not None)]
    bottom, top = min(every), max(every)
    room = (top - bottom) * 0.08 or abs(top) * 0.1 or 1.0
    bottom = max(bottom - room, 0.0) if bottom >= 0 else bottom - room
    return bottom, top + room


def _ticks(bottom: float, top: float) -> list[float]:
    """Round numbers within."""
    rough = (top - bottom) / _TICKS
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * each for each in (1, 2, 5, 10) if size * each >= rough)
    found = []
    value = math.ceil(bottom / step) * step
    while value <= top + step * 1e-9:
        found.append(round(value, 10))
        value += step
    return found


def _day(at: datetime) -> str:
    local = at.astimezone(LONDON)
    return f"{local.day} {local:%b %Y}"
