"""Axes: where values lie on a sheet, and at which round numbers people find their way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anabranch.cli.numbers import duration
from anabranch.cli.plots.canvas import CHARACTER, Canvas

_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Axis:
    """A stretch of values on a stretch of the sheet."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies; what is outside lies at the border."""
        low, high, inside = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, inside = math.log(low), math.log(high), math.log(inside)
        share = (inside - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def round_ticks(low: float, high: float, about: int) -> list[float]:
    """Round values between two, about so many."""
    if not high > low:
        return [low]
    raw = (high - low) / max(about, 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two values above 0; other round ones where those are too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [t for power in powers for f in (1, 2, 5) if low <= (t := f * 10.0**power) <= high]
    return found if len(found) > 2 else round_ticks(low, high, 4)


def time_ticks(seconds: float, about: int) -> list[float]:
    """Moments from 0 at which clocks show round numbers."""
    raw = seconds / max(about, 1)
    step = next((each for each in _SECONDS if each >= raw), None) or math.ceil(raw / 86_400) * 86_400
    return [float(step * index) for index in range(int(seconds / step + 1e-9) + 1)]


def draw_time_axis(canvas: Canvas, axis: Axis, top: float, bottom: float) -> None:
    """The axis of time below a plot, with light lines through it."""
    about = int((axis.end - axis.start) / 70)
    for moment in time_ticks(axis.high, about):
        x = axis.at(moment)
        canvas.line(x, top, x, bottom, "var(--grid)")
        canvas.text(x, bottom + 16, duration(moment) if moment else "start", anchor="middle")


def draw_value_axis(
    canvas: Canvas, axis: Axis, ticks: Sequence[float], left: float, right: float, say: Callable[[float], str]
) -> None:
    """The axis of values on the left of a plot, with light lines through it."""
    for value in ticks:
        y = axis.at(value)
        canvas.line(left, y, right, y, "var(--grid)")
        canvas.text(left - 6, y + 4, say(value), anchor="end")


def draw_legend(
    canvas: Canvas, entries: Sequence[tuple[str, str]], left: float, right: float, y: float
) -> float:
    """Names with their colours, in as many lines as they need; answers the y below them."""
    x = left
    for name, colour in entries:
        width = 18 + CHARACTER * len(name) + 14
        if x > left and x + width > right:
            x, y = left, y + 18
        canvas.rect(x, y - 9, 12, 10, colour)
        canvas.text(x + 17, y, name, fill="var(--ink)")
        x += width
    return y + 8
