"""Durations as people write them: a number and a unit, one or more times."""

from __future__ import annotations

import re
from typing import Final

_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def seconds(value: object) -> float:
    """A duration such as `90s`, `10m` or `1h30m`, in seconds.

    Raises:
        ValueError: If the text is not a duration.
    """
    text = str(value)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(
            f"{text!r} is not a duration: write a number and ms, s, m, h or d, like 90s or 1h30m"
        )
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
