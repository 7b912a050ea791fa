"""Keeps the journal small: now and then, by the process that reads it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from anabranch.store.journal_upkeep import Pruned, prune
from anabranch.store.port import Store

EVERY_S: Final = 600.0
_DAY_S: Final = 86_400.0
_log = logging.getLogger(__name__)


class JournalUpkeep:
    """Removes old segments of one journal.

    Args:
        store: Knows how far they were read.
        directory: The journal.
        keep_days: How long raw outcomes stay.
        keep_bytes: How many bytes of them stay.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        store: Store,
        directory: Path,
        *,
        keep_days: float,
        keep_bytes: int,
        wall_clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._directory = directory
        self._keep_s = keep_days * _DAY_S
        self._keep_bytes = keep_bytes
        self._wall_clock = wall_clock
        self._next_s = wall_clock()

    def run(self) -> Pruned:
        """Remove what may go, if it is time; called in every round."""
        now = self._wall_clock()
        # A clock that was set back must not stop it for long.
        if self._next_s - EVERY_S <= now < self._next_s:
            return Pruned()
        self._next_s = now + EVERY_S
        done = prune(
            self._store, self._directory, changed_before_s=now - self._keep_s, keep_bytes=self._keep_bytes
        )
        if done.segments:
            _log.info(
                "%d segments of the journal were removed, %.1f MiB", done.segments, done.size_bytes / 2**20
            )
        return done
