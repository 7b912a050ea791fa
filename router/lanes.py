"""Journal lanes for new workers, some of them in stock: a worker that dies while the database is down is replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Lanes:
    """Numbers that no worker had before.

    Args:
        take: Gets one from the store.
        spare: How many to keep in stock. A stock that is not used up is thrown away: there are four billion.
    """

    def __init__(self, take: Callable[[], int], *, spare: int) -> None:
        self._take = take
        self._spare = spare
        self._stock: deque[int] = deque()

    def next(self) -> int:
        """One for a worker that begins.

        Raises:
            Exception: What the store raises, once the stock is used up as well.
        """
        try:
            return self._take()
        except Exception:
            if not self._stock:
                raise
            return self._stock.popleft()

    def refill(self) -> None:
        """Fill the stock up while the store answers; called with every tick."""
        while len(self._stock) < self._spare:
            self._stock.append(self._take())
