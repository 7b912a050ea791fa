"""The controller's reading of the journal: all of it every round, in batches, and a word when it falls behind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from anabranch.store.ingest import Ingested, Ingester
from anabranch.store.ingestion_port import AlreadyRead
from anabranch.store.port import Store

MOST_BATCHES: Final = 10
"""Batches of one round: with a backlog of hours, experiments must still be ticked."""
_log = logging.getLogger(__name__)


class JournalReader:
    """Reads one journal, round by round.

    Args:
        store: Where what was read goes.
        directory: The journal.
    """

    def __init__(self, store: Store, directory: Path) -> None:
        self._ingester = Ingester(store, directory)
        self._damage: frozenset[str] = frozenset()
        self._is_behind = False

    def read(self) -> Ingested:
        """Read what the journal has gained; answers what that was, over all batches."""
        found = self._read_batch()
        for _ in range(MOST_BATCHES - 1):
            if not found.waiting_bytes:
                break
            found = found.followed_by(self._read_batch())
        self._say(found)
        return found

    def _read_batch(self) -> Ingested:
        try:
            return self._ingester.ingest()
        except AlreadyRead as said:
            # As after a crash whose last transaction was still on its way: the next look sees what it did.
            _log.warning("a part of the journal was read already: %s", said)
            return self._ingester.ingest()

    def _say(self, found: Ingested) -> None:
        """Log damage once for each place, and falling behind once until it is made up for."""
        for reason in sorted(set(found.corrupt) - self._damage):
            _log.error("the journal is damaged, that segment is read no further: %s", reason)
        self._damage = frozenset(found.corrupt)
        is_behind = found.waiting_bytes > 0
        if is_behind and not self._is_behind:
            _log.warning(
                "the journal grows faster than it is read: %.1f MiB wait after %d records in this round; "
                "decisions are late by that",
                found.waiting_bytes / 2**20,
                found.records,
            )
        elif self._is_behind and not is_behind:
            _log.info("the journal is read to its end again")
        self._is_behind = is_behind
