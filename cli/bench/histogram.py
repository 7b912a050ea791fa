"""Durations in buckets one per cent wide: any number of them in a few kilobytes, quantiles to within half a per cent."""

from __future__ import annotations

from math import exp, log
from typing import Final

_SHORTEST_S: Final = 1e-6
_LONGEST_S: Final = 1e4
_WIDTH: Final = log(1.01)
_BUCKETS: Final = int(log(_LONGEST_S / _SHORTEST_S) / _WIDTH) + 1


class Histogram:
    """Durations from a microsecond to hours; what is shorter or longer counts as these.

    Attributes:
        total: How many were added.
        longest_s: The longest, exactly.
    """

    __slots__ = ("_counts", "longest_s", "total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.total = 0
        self.longest_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one duration."""
        if duration_s > self.longest_s:
            self.longest_s = duration_s
        index = int(log(duration_s / _SHORTEST_S) / _WIDTH) if duration_s > _SHORTEST_S else 0
        self._counts[index if index < _BUCKETS else _BUCKETS - 1] += 1
        self.total += 1

    def quantile(self, share: float) -> float | None:
        """Return the duration that this share of them do not exceed.

        Args:
            share: In (0, 1].

        Returns:
            Seconds; None without any.
        """
        if not self.total:
            return None
        wanted = share * self.total
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                # The middle of the bucket.
                return min(_SHORTEST_S * exp((index + 0.5) * _WIDTH), self.longest_s)
        return self.longest_s
