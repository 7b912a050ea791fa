"""A quantile of the latest values, exact at every moment, for about a microsecond a value."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque


class RecentQuantile:
    """The quantile of the last values.

    Args:
        share: The quantile, in (0, 1).
        most: How many values are remembered.
    """

    __slots__ = ("_order", "_share", "_sorted", "most")

    def __init__(self, share: float, most: int = 512) -> None:
        self._share = share
        self.most = most
        self._order: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._order)

    def add(self, value: float) -> None:
        """Take a value in; the oldest leaves when there are too many."""
        self._order.append(value)
        insort(self._sorted, value)
        if len(self._order) > self.most:
            del self._sorted[bisect_left(self._sorted, self._order.popleft())]

    def value(self) -> float:
        """The smallest remembered value that at least `share` of them do not exceed.

        Raises:
            IndexError: Nothing is remembered.
        """
        return self._sorted[math.ceil(self._share * len(self._sorted)) - 1]
