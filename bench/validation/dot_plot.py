"""A dot plot as SVG: one line a row, one dot a series, a dashed line at the target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeAlias

Series: TypeAlias = Mapping[str, float]

LEFT, RIGHT, TOP, LINE, RADIUS = 300, 30, 86, 24, 5
WIDTH = 900
# Distinguishable without red against green; the first is drawn last, on top.
COLOURS = ("#0b6e4f", "#d1495b", "#edae49", "#30638e", "#8d5fd3", "#7f7f7f", "#003d5b")


def dot_plot(
    title: str, rows: Sequence[tuple[str, Series]], *, target: float, largest: float, root: bool = False
) -> str:
    """The plot.

    Args:
        title: above it.
        rows: label and values by series.
        target: where the dashed line is.
        largest: end of the axis; what lies beyond is drawn at the end.
        root: whether the axis is a square root, which gives small rates room.
    """
    names = list(dict.fromkeys(name for _, series in rows for name in series))
    height = TOP + LINE * len(rows) + 50

    def across(value: float) -> float:
        share = min(max(value, 0.0) / largest, 1.0)
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.sqrt(share) if root else share)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="16" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    place = 16.0
    for index, name in enumerate(names):
        parts.append(
            f'<circle cx="{place:.0f}" cy="46" r="{RADIUS}" fill="{COLOURS[index % len(COLOURS)]}"/>'
        )
        parts.append(f'<text x="{place + 9:.0f}" y="50">{escape(name)}</text>')
        place += 26 + 6.6 * len(name)
    bottom = TOP + LINE * len(rows)
    ticks = (
        (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
        if root
        else tuple(x / 2 for x in range(int(2 * largest) + 1))
    )
    for tick in ticks:
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 12}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555">{tick:g}</text>')
    x = across(target)
    parts.append(
        f'<line x1="{x:.1f}" y1="{TOP - 12}" x2="{x:.1f}" y2="{bottom}" stroke="#222" stroke-dasharray="5 3"/>'
    )
    for number, (label, series) in enumerate(rows):
        y = TOP + LINE * number + 4
        parts.append(f'<text x="{LEFT - 14}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        for index, name in reversed(list(enumerate(names))):
            if name in series:
                parts.append(
                    f'<circle cx="{across(series[name]):.1f}" cy="{y}" r="{RADIUS}" fill-opacity="0.9" '
                    f'fill="{COLOURS[index % len(COLOURS)]}"><title>{escape(name)} {series[name]:.3g}</title></circle>'
                )
    return "\n".join([*parts, "</svg>", ""])
