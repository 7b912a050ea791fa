"""Charts of characters: shares over time as a stacked area, rates as a line of bars, intervals on a scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.text import Text

from anabranch.cli.splits import Split, weights_at

_LEVELS = "▁▂▃▄▅▆▇█"


def split_area(
    splits: Sequence[Split],
    arms: Sequence[str],
    colours: Mapping[str, str],
    elapsed_s: float,
    width: int,
    height: int,
) -> list[Text]:
    """The traffic split over time: the baseline at the bottom, two levels a line.

    Args:
        splits: What weights applied from when on.
        arms: From the bottom up.
        colours: By arm.
        elapsed_s: What the width stands for.
        width: Columns.
        height: Lines.
    """
    levels = 2 * height
    columns = [
        _stacked(weights_at(splits, (column + 0.5) / width * elapsed_s), arms, levels)
        for column in range(width)
    ]
    lines = []
    for line in range(height):
        text = Text(no_wrap=True)
        upper, lower = levels - 1 - 2 * line, levels - 2 - 2 * line
        for stack in columns:
            # Half a character each: the foreground is the upper level.
            text.append("▀", style=f"{colours[stack[upper]]} on {colours[stack[lower]]}")
        lines.append(text)
    return lines


def _stacked(weights: Mapping[str, float], arms: Sequence[str], levels: int) -> list[str]:
    """By level from the bottom, whose it is: whatever has traffic gets one at least, the largest give them."""
    served = [arm for arm in arms if weights.get(arm, 0.0) > 0.0] or list(arms[:1])
    counts = {arm: max(1, round(weights.get(arm, 0.0) * levels)) for arm in served}
    while sum(counts.values()) != levels:
        largest = max(served, key=lambda arm: counts[arm])
        counts[largest] += 1 if sum(counts.values()) < levels else -1
    return [arm for arm in served for _ in range(counts[arm])]


def bars(values: Sequence[float | None], most: float) -> str:
    """A line of bars from 0 to `most`; a blank where nothing is known, a dot for 0."""
    marks = []
    for value in values:
        if value is None:
            marks.append(" ")
        elif value <= 0.0 or most <= 0.0:
            marks.append("·")
        else:
            marks.append(_LEVELS[min(len(_LEVELS) - 1, int(value / most * len(_LEVELS)))])
    return "".join(marks)


def whisker(low: float, estimate: float, high: float, least: float, most: float, width: int) -> str:
    """An interval on a logarithmic scale: `├──●───┤`; an end that lies outside is an arrow.

    Args:
        low: Lower end, at least 0.
        estimate: Inside the interval.
        high: Upper end, possibly infinite.
        least: What the left border stands for, above 0.
        most: What the right border stands for.
        width: Columns.
    """

    def column(value: float) -> int:
        if value <= least:
            return 0
        if value >= most or most <= least:
            return width - 1
        return round(math.log(value / least) / math.log(most / least) * (width - 1))

    left, middle, right = column(low), column(estimate), column(high)
    marks = [" "] * width
    for place in range(left, right + 1):
        marks[place] = "─"
    marks[left] = "◂" if low < least else "├"
    marks[right] = "▸" if high > most else "┤"
    marks[middle] = "●"
    return "".join(marks)


def time_axis(width: int) -> Text:
    """The line below a chart over time: from the start to now."""
    return Text("start" + " " * max(1, width - 8) + "now", style="dim", no_wrap=True)
