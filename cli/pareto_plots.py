"""Quality against latency as a picture: an SVG file, and a plot of characters for the terminal.

A dot's area is the variant's size; variants that nothing beats are filled and joined by a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from anabranch.cli.comparing import Comparison, Point

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 200, 40, 60
_LARGEST_DOT, _SMALLEST_DOT = 16.0, 4.0
_BEST, _OTHER, _INK = "#0b6e4f", "#8a8f98", "#30343b"
_LABEL_GAP = 13.0
_MARKS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# A little room around the outermost points.
_MARGIN = 0.06


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values on a line from `low` to `high`; latency is drawn by its logarithm."""

    low: float
    high: float
    is_log: bool

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def _axes(points: Sequence[Point]) -> tuple[_Axis, _Axis]:
    times = [point.latency_ms for point in points]
    factor = (max(times) / min(times)) ** _MARGIN * 1.05
    low, high = min(point.low for point in points), max(point.high for point in points)
    room = max(high - low, 1e-3) * _MARGIN
    return (
        _Axis(min(times) / factor, max(times) * factor, is_log=True),
        _Axis(low - room, high + room, is_log=False),
    )


def pareto_svg(comparison: Comparison) -> str:
    """The picture as an SVG document that needs nothing else."""
    across, up = _axes(comparison.points)
    largest = max(point.size_bytes for point in comparison.points)

    def x(value: float) -> float:
        return _LEFT + across.share(value) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - up.share(value) * (_HEIGHT - _TOP - _BOTTOM)

    title = f"{comparison.model}: {comparison.quality} against latency, batches of {comparison.batch_size}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="{_INK}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="22" font-size="14">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 14}">median of a call, ms, logarithmic; a dot\'s area is the size; bars are 95 % intervals</text>',
    ]
    for value in _ticks_of(across):
        parts += [
            f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#e6e8eb"/>',
            f'<text x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:.3g}</text>',
        ]
    for value in _ticks_of(up):
        parts += [
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#e6e8eb"/>',
            f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.1%}</text>',
        ]
    front = " ".join(
        f"{x(point.latency_ms):.1f},{y(point.quality):.1f}" for point in comparison.points if point.is_best
    )
    parts.append(f'<polyline points="{front}" fill="none" stroke="{_BEST}" stroke-dasharray="4 3"/>')
    labels = _spread([y(point.quality) for point in comparison.points])
    for point, label_y in zip(comparison.points, labels, strict=True):
        colour = _BEST if point.is_best else _OTHER
        radius = max(_SMALLEST_DOT, _LARGEST_DOT * math.sqrt(point.size_bytes / largest))
        px, py = x(point.latency_ms), y(point.quality)
        fill = colour if point.is_best else "#ffffff"
        parts += [
            f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{y(point.low):.1f}" y2="{y(point.high):.1f}" stroke="{colour}" stroke-opacity="0.35"/>',
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}" fill="{fill}" fill-opacity="0.75" stroke="{colour}"/>',
            f'<path d="M{px:.1f} {py:.1f}L{_WIDTH - _RIGHT + 6} {label_y:.1f}" stroke="{colour}" stroke-opacity="0.25"/>',
            f'<text x="{_WIDTH - _RIGHT + 10}" y="{label_y + 4:.1f}" fill="{colour}">{escape(point.variant)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _spread(wanted: Sequence[float]) -> list[float]:
    """Heights of labels near the wanted ones, so that no two touch."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    last = -math.inf
    for index in order:
        last = placed[index] = max(wanted[index], last + _LABEL_GAP)
    excess = max(placed, default=0.0) - (_HEIGHT - _BOTTOM)
    return [height - max(0.0, excess) for height in placed]


def _ticks_of(axis: _Axis) -> list[float]:
    if axis.is_log:
        first = math.floor(math.log10(axis.low))
        last = math.ceil(math.log10(axis.high))
        candidates = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    else:
        raw = (axis.high - axis.low) / 5
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
        candidates = [math.ceil(axis.low / step) * step + step * index for index in range(7)]
    return [value for value in candidates if axis.low <= value <= axis.high]


def pareto_text(comparison: Comparison, width: int, height: int) -> str:
    """The picture in characters: a letter a variant, upper case first; `*` in the legend where nothing beats it.

    Args:
        comparison: At most 52 variants get a letter of their own, further ones `?`.
        width: Columns, at least 30.
        height: Lines of the plot itself, at least 5.
    """
    across, up = _axes(comparison.points)
    columns = width - 9
    grid = [[" "] * columns for _ in range(height)]
    legend: list[str] = []
    for index, point in enumerate(comparison.points):
        mark = _MARKS[index] if index < len(_MARKS) else "?"
        column = round(across.share(point.latency_ms) * (columns - 1))
        row = round((1 - up.share(point.quality)) * (height - 1))
        grid[row][column] = mark if grid[row][column] == " " else "+"
        star = "*" if point.is_best else " "
        legend.append(f"  {mark}{star} {point.variant}")
    lines = []
    for index, row_marks in enumerate(grid):
        value = up.high - (up.high - up.low) * index / (height - 1)
        axis = f"{value:7.1%} │" if index in (0, height // 2, height - 1) else "        │"
        lines.append(axis + "".join(row_marks).rstrip())
    ends = f"{across.low:.3g} ms", f"{across.high:.3g} ms"
    lines.append("        └" + "─" * columns)
    lines.append("         " + ends[0] + " " * max(1, columns - len(ends[0]) - len(ends[1])) + ends[1])
    return "\n".join([f"{comparison.quality} against latency (log); + where letters meet", *lines, *legend])
