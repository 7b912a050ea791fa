"""Plots over time: the traffic split, the intervals of one metric, and who is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from anabranch.cli.numbers import duration, share
from anabranch.cli.plots.axes import (
    Axis,
    draw_legend,
    draw_time_axis,
    draw_value_axis,
    round_ticks,
)
from anabranch.cli.plots.canvas import Canvas
from anabranch.cli.splits import Split

LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 10.0, 26.0
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_LINE = 14.0
"""Height of a line of text."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An estimate with its interval at a moment.

    Attributes:
        since_start_s: Seconds since the start of the run.
    """

    since_start_s: float
    estimate: float
    low: float
    high: float


def split_plot(
    splits: Sequence[Split],
    arms: Sequence[str],
    colours: Mapping[str, str],
    elapsed_s: float,
    *,
    width: float,
    title: str,
    stands_alone: bool = False,
) -> str:
    """The traffic split as a stacked area, the baseline at the bottom."""
    canvas, legend = _sheet(width, 220.0, [(arm, colours[arm]) for arm in arms])
    across = Axis(0.0, max(elapsed_s, 1.0), LEFT, width - RIGHT)
    up = Axis(0.0, 1.0, canvas.height - BOTTOM, legend)
    ends = [*(split.since_start_s for split in splits[1:]), max(elapsed_s, 1.0)]
    for split, end in zip(splits, ends, strict=False):
        base = 0.0
        for arm in arms:
            weight = split.weights.get(arm, 0.0)
            if weight > 0.0:
                x1, x2 = across.at(split.since_start_s), across.at(end)
                y1, y2 = up.at(base + weight), up.at(base)
                canvas.rect(x1, y1, x2 - x1 + 0.3, y2 - y1, colours[arm])
            base += weight
    draw_time_axis(canvas, across, legend, canvas.height - BOTTOM)
    draw_value_axis(canvas, up, (0.0, 0.25, 0.5, 0.75, 1.0), LEFT, width - RIGHT, share)
    last = splits[-1].weights if splits else {}
    told = ", ".join(f"{arm} {share(last.get(arm, 0.0))}" for arm in arms)
    return canvas.svg(
        title,
        f"Over {duration(elapsed_s)} the split changed {len(splits)} times. At the end: {told}.",
        stands_alone=stands_alone,
    )


def readings_plot(
    readings: Mapping[str, Sequence[Reading]],
    colours: Mapping[str, str],
    elapsed_s: float,
    *,
    width: float,
    title: str,
    say: Callable[[float], str],
    limit: float | None = None,
    limit_name: str = "",
    stands_alone: bool = False,
) -> str:
    """Estimates as lines inside their confidence sequences, which cover at all times at once.

    Args:
        readings: By arm, oldest first.
        colours: By arm.
        elapsed_s: What the width stands for.
        width: Of the sheet.
        title: What it shows.
        say: A value as people read it.
        limit: What the estimates are held against.
        limit_name: The limit in words.
        stands_alone: See `Canvas.svg`.
    """
    shown = {arm: rows for arm, rows in readings.items() if rows}
    canvas, legend = _sheet(width, 230.0, [(arm, colours[arm]) for arm in shown])
    across = Axis(0.0, max(elapsed_s, 1.0), LEFT, width - RIGHT)
    low, high = _range(list(shown.values()), limit)
    up = Axis(low, high, canvas.height - BOTTOM, legend)
    draw_time_axis(canvas, across, legend, canvas.height - BOTTOM)
    draw_value_axis(canvas, up, round_ticks(low, high, 4), LEFT, width - RIGHT, say)
    for arm, rows in shown.items():
        tops = [(across.at(row.since_start_s), up.at(row.high)) for row in rows]
        bottoms = [(across.at(row.since_start_s), up.at(row.low)) for row in rows]
        canvas.polygon([*tops, *reversed(bottoms)], colours[arm], ' fill-opacity="0.16"')
        line = [(across.at(row.since_start_s), up.at(row.estimate)) for row in rows]
        canvas.polyline(line, colours[arm], _pen(arm, colours))
        canvas.circle(*line[-1], 3, colours[arm])
    if limit is not None:
        y = up.at(limit)
        canvas.line(LEFT, y, width - RIGHT, y, "var(--ink)", ' stroke-dasharray="5 4"')
        # Above the line, or below it where the legend is just above.
        canvas.text(LEFT + 5, y - 5 if y - legend > _LINE else y + _LINE, limit_name, fill="var(--ink)")
    told = "; ".join(
        f"{arm} {say(rows[-1].estimate)} between {say(rows[-1].low)} and {say(rows[-1].high)}"
        for arm, rows in shown.items()
    )
    return canvas.svg(title, f"At the end: {told or 'no data'}.", stands_alone=stands_alone)


def shares_plot(
    rows: Sequence[tuple[float, Mapping[str, float]]],
    arms: Sequence[str],
    colours: Mapping[str, str],
    elapsed_s: float,
    *,
    width: float,
    title: str,
    stands_alone: bool = False,
) -> str:
    """Probabilities that sum to 1, one line an arm.

    Args:
        rows: Seconds since the start, and the probability of every arm then.
        arms: In the order of the spec.
        colours: By arm.
        elapsed_s: What the width stands for.
        width: Of the sheet.
        title: What it shows.
        stands_alone: See `Canvas.svg`.
    """
    canvas, legend = _sheet(width, 200.0, [(arm, colours[arm]) for arm in arms])
    across = Axis(0.0, max(elapsed_s, 1.0), LEFT, width - RIGHT)
    up = Axis(0.0, 1.0, canvas.height - BOTTOM, legend)
    draw_time_axis(canvas, across, legend, canvas.height - BOTTOM)
    draw_value_axis(canvas, up, (0.0, 0.5, 1.0), LEFT, width - RIGHT, share)
    for arm in arms:
        line = [(across.at(at), up.at(row.get(arm, 0.0))) for at, row in rows]
        canvas.polyline(line, colours[arm], _pen(arm, colours))
    last = rows[-1][1] if rows else {}
    told = ", ".join(f"{arm} {share(last.get(arm, 0.0))}" for arm in arms)
    return canvas.svg(title, f"At the end: {told}.", stands_alone=stands_alone)


def _pen(arm: str, colours: Mapping[str, str]) -> str:
    """The arm's way to draw a line, the same in every plot."""
    dash = _DASHES[list(colours).index(arm) % len(_DASHES)]
    return ' stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _sheet(width: float, height: float, legend: Sequence[tuple[str, str]]) -> tuple[Canvas, float]:
    """A sheet with its legend on top, and where the plot begins; the legend makes the sheet taller."""
    canvas = Canvas(width, height)
    below = draw_legend(canvas, legend, LEFT, width - RIGHT, TOP + 10)
    canvas.height = height + max(0.0, below - TOP - 18)
    return canvas, below + 4


def _range(rows_by_arm: Sequence[Sequence[Reading]], limit: float | None) -> tuple[float, float]:
    """The values worth showing: the estimates, and the later half of every arm's intervals; early ones are too wide."""
    values = [] if limit is None else [limit]
    for rows in rows_by_arm:
        values += [row.estimate for row in rows[len(rows) // 8 :]]
        values += [end for row in rows[len(rows) // 2 :] for end in (row.low, row.high)]
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = max(high - low, abs(high) * 0.02, 1e-4) * 0.06
    return low - room, high + room
