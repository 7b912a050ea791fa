"""Deadlines of many calls on few timers: a wheel of ticks, one timer of the loop for the next tick that has calls."""

import asyncio
import heapq
from typing import Final, Protocol

TICK_S: Final = 0.005
"""Seconds a call may outlive its deadline; a client enforces its own deadline exactly."""


_TICKS_A_SECOND: Final = round(1 / TICK_S)


class Expiring(Protocol):
    """What a wheel ends."""

    __slots__ = ()

    def expire(self) -> None:
        """End with DEADLINE_EXCEEDED."""


class DeadlineWheel:
    """Ends calls at their deadlines, at a cost of two set operations a call.

    Args:
        loop: Gives the time and the timer.
    """

    __slots__ = ("_buckets", "_loop", "_ticks", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, set[Expiring]] = {}
        self._ticks: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Expiring, deadline: float) -> int:
        """Watch a call.

        Args:
            call: Ended at its deadline.
            deadline: On the loop's clock.

        Returns:
            The tick to give to `discard`.
        """
        tick = int(deadline * _TICKS_A_SECOND) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            heapq.heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._arm()
        bucket.add(call)
        return tick

    def discard(self, call: Expiring, tick: int) -> None:
        """Forget a call that has ended, and all it holds."""
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.discard(call)

    def close(self) -> None:
        """Forget every call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()
        self._ticks.clear()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._ticks[0] * TICK_S, self._turn)

    def _turn(self) -> None:
        self._timer = None
        # A timer of the loop may run a millisecond early.
        now = self._loop.time() + 0.001
        while self._ticks and self._ticks[0] * TICK_S <= now:
            for call in self._buckets.pop(heapq.heappop(self._ticks)):
                call.expire()
        # A call's end may have armed the timer already.
        if self._ticks and self._timer is None:
            self._arm()
