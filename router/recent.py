"""A quantile of the latest values: a tenth of a microsecond a value, and a sort now and then where it is asked for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

# Among 512 values, 32 further ones move a quantile by little, and a sort takes as long as a hundred of them take to arrive.
_STALE_SHARE = 1 / 16


class RecentQuantile:
    """The quantile of the last values.

    Args:
        share: The quantile, in (0, 1).
        most: How many values are remembered.
    """

    __slots__ = ("_latest", "_share", "_value", "_waiting")

    def __init__(self, share: float, most: int = 512) -> None:
        self._share = share
        self._latest: deque[float] = deque(maxlen=most)
        self._value = 0.0
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, value: float) -> None:
        """Take a value in; the oldest leaves when there are too many."""
        self._latest.append(value)
        self._waiting += 1

    def extend(self, values: Sequence[float]) -> None:
        """Take several in."""
        self._latest.extend(values)
        self._waiting += len(values)

    def value(self) -> float:
        """The smallest remembered value that at least `share` of them do not exceed.

        Up to a sixteenth of the values may have come since it was found.

        Raises:
            IndexError: Nothing is remembered.
        """
        if self._waiting >= max(1.0, _STALE_SHARE * len(self._latest)) or not self._latest:
            self._value = sorted(self._latest)[math.ceil(self._share * len(self._latest)) - 1]
            self._waiting = 0
        return self._value
