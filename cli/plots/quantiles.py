"""Latency quantiles of every variant with their bounds, on one logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from anabranch.cli.numbers import milliseconds
from anabranch.cli.plots.axes import Axis, draw_legend, log_ticks
from anabranch.cli.plots.canvas import Canvas
from anabranch.cli.view_types import ArmView

_ROW = 17.0


def quantiles_plot(
    arms: Sequence[ArmView],
    colours: Mapping[str, str],
    *,
    width: float,
    title: str,
    stands_alone: bool = False,
) -> str:
    """A row for each quantile and variant: the estimate as a dot, its confidence sequence as a line.

    Args:
        arms: Those with latencies.
        colours: By name.
        width: Of the sheet.
        title: What it shows.
        stands_alone: See `Canvas.svg`.
    """
    shown = [arm for arm in arms if arm.quantiles]
    canvas = Canvas(width, 0.0)
    top = draw_legend(canvas, [(arm.name, colours[arm.name]) for arm in shown], 44, width - 14, 20) + 6
    groups = [[(arm, arm.quantiles[index]) for arm in shown] for index in range(3)] if shown else []
    bottom = top + sum(_ROW * len(group) + 10 for group in groups)
    canvas.height = bottom + 28
    ends = [
        end
        for group in groups
        for _, each in group
        for end in (each.low_ms, each.estimate_ms, each.high_ms)
        if 0.0 < end < math.inf
    ]
    if not ends:
        return canvas.svg(title, "No latencies yet.", stands_alone=stands_alone)
    across = Axis(min(ends) * 0.9, max(ends) * 1.1, 44.0, width - 70, is_log=True)
    for value in log_ticks(across.low, across.high):
        x = across.at(value)
        canvas.line(x, top, x, bottom, "var(--grid)")
        canvas.text(x, bottom + 16, f"{value:g} ms", anchor="middle")
    y, told = top, []
    for group in groups:
        name = f"p{100 * group[0][1].probability:.0f}"
        canvas.text(8, y + _ROW * len(group) / 2 + 4, name, fill="var(--ink)")
        for arm, each in group:
            y += _ROW
            left, right = across.at(max(each.low_ms, across.low)), across.at(each.high_ms)
            colour = colours[arm.name]
            canvas.line(left, y - 5, right, y - 5, colour, ' stroke-width="3" stroke-opacity="0.45"')
            canvas.circle(across.at(each.estimate_ms), y - 5, 4, colour)
            canvas.text(width - 62, y - 1, milliseconds(each.estimate_ms), fill="var(--ink)")
            told.append(f"{arm.name} {name} {milliseconds(each.estimate_ms)} ms")
        y += 10
    return canvas.svg(title, f"{'; '.join(told)}.", stands_alone=stands_alone)
