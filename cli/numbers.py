"""How numbers look to people: short, with their unit, the same in every table."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from anabranch.cli.view_types import Unit

NOTHING = "-"


def duration(seconds: float | None) -> str:
    """A duration in its two largest units: `0.4s`, `45s`, `3m20s`, `2h05m`, `4d3h`."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 1:
        return f"{seconds:.1f}s"
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days}d{hours_left}h" if hours_left and days < 10 else f"{days}d"
    if hours:
        return f"{hours}h{minutes_left:02d}m" if minutes_left else f"{hours}h"
    if minutes:
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    return f"{rest}s"


def moment(at_s: float) -> str:
    """A moment in UTC, ISO 8601, to the second."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def share(value: float | None) -> str:
    """A share of traffic: `5%`, `12.5%`, `0.02%`; never 0% or 100% unless it is."""
    if value is None:
        return NOTHING
    percent = 100 * value
    if 0 < percent < 0.1:
        return f"{percent:.1g}%"
    if 99.9 < percent < 100:
        return f"{percent:.2f}%" if percent < 99.995 else "<100%"
    return f"{round(percent, 1):g}%"


def rate(value: float | None) -> str:
    """An error rate: two significant digits below one per cent."""
    if value is None:
        return NOTHING
    percent = 100 * value
    return f"{percent:.2g}%" if percent < 1 else f"{percent:.1f}%"


def milliseconds(value: float | None) -> str:
    """A latency without its unit: three significant digits; a timeout is ∞."""
    if value is None:
        return NOTHING
    return significant(value)


def significant(value: float) -> str:
    """A positive number with three significant digits and no exponent."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def per_second(value: float | None) -> str:
    """A rate of requests."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def count(value: int) -> str:
    """A count with thousands marked."""
    return f"{value:,}"


def bare(unit: Unit, value: float, *, is_difference: bool = False) -> str:
    """A metric's value without its unit, per cent for a share; a difference carries its sign."""
    sign = "+" if is_difference and value > 0 else ""
    if unit is Unit.MS:
        return sign + significant(value)
    if unit is Unit.PER_1K:
        return f"{sign}{value:.3g}"
    if unit is Unit.PLAIN:
        return f"{sign}{value:.4g}"
    percent = 100 * value
    if percent in (0, 100):
        return f"{percent:.0f}"
    return f"{sign}{percent:.1f}" if abs(percent) >= 1 else f"{sign}{percent:.2f}"


def in_unit(unit: Unit, value: float, *, is_difference: bool = False) -> str:
    """A metric's value with its unit."""
    text = bare(unit, value, is_difference=is_difference)
    return {Unit.MS: f"{text} ms", Unit.SHARE: f"{text}%", Unit.PLAIN: text, Unit.PER_1K: f"{text}/1k"}[unit]


def interval(unit: Unit, low: float, high: float, *, is_difference: bool = False) -> str:
    """An interval without its unit: `[98.9, 99.5]`."""
    ends = (bare(unit, end, is_difference=is_difference) for end in (low, high))
    return f"[{', '.join(ends)}]"
