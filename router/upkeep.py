"""Keeps the store small: once an hour, in parts that hold nobody up, by whichever controller leads."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from anabranch.store.lease import Lease
from anabranch.store.upkeep_port import CHUNK, Compacted, UpkeepStore

EVERY_S: Final = 3_600.0
DAY_S: Final = 86_400.0
_log = logging.getLogger(__name__)


class Upkeep:
    """Compacts a store now and then.

    Args:
        store: What is kept small.
        keep_days: How long single requests of an ended experiment are remembered.
        wall_clock: Seconds since 1970.
    """

    def __init__(self, store: UpkeepStore, *, keep_days: float, wall_clock: Callable[[], float]) -> None:
        self._store = store
        self._keep_s = keep_days * DAY_S
        self._wall_clock = wall_clock
        self._next_s = wall_clock() + EVERY_S
        self._removed = 0

    def run(self, lease: Lease | None) -> Compacted:
        """Remove some of what is not needed any more, if it is time; called by the leading controller in every round.

        Raises:
            LeaseLost: If another controller leads by now.
        """
        now = self._wall_clock()
        # A clock that was set back must not stop it for long.
        if self._next_s - EVERY_S <= now < self._next_s:
            return Compacted()
        done = self._store.compact(now - self._keep_s, lease=lease)
        self._removed += done.rows
        if done.rows < CHUNK:
            if self._removed:
                _log.info("%d rows were removed that are not needed any more", self._removed)
            self._next_s, self._removed = now + EVERY_S, 0
        return done
