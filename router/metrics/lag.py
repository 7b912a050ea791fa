"""How late an event loop is: a timer ten times a second, and by how much each one missed."""

from __future__ import annotations

from array import array
from asyncio import AbstractEventLoop, TimerHandle
from typing import Final

import numpy as np

from anabranch.router.metrics.catalogue import WORKERS
from anabranch.router.metrics.meter import buckets_of
from anabranch.router.metrics.samples import Buckets

EVERY_S: Final = 0.1


class LagProbe:
    """The lag of one loop; used on its thread.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._late = array("d")
        self._timer: TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin to look."""
        self._due = self._loop.time() + EVERY_S
        self._timer = self._loop.call_at(self._due, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def take(self) -> Buckets:
        """What was seen since the last time."""
        found = np.array(self._late)
        del self._late[:]
        return buckets_of(WORKERS.loop_lag, found)

    def _look(self) -> None:
        self._late.append(max(0.0, self._loop.time() - self._due))
        self.start()
