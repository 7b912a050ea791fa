"""What a worker writes down: one place numbers the assignments and appends to the journal.

When the disk refuses, requests are still answered: the recorder keeps what it can, counts what it must drop,
and reports itself unable, so that new requests go to the baseline outside the experiment until it recovers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from anabranch.store.records import Record

_MOST_WAITING = 100_000
_log = logging.getLogger(__name__)


class Journal(Protocol):
    """Where records go."""

    def append(self, record: Record) -> None:
        """Queue a record."""
        ...

    def append_body(self, body: bytes) -> None:
        """Queue a request in its binary form."""
        ...

    def append_bodies(self, bodies: Iterable[bytes]) -> None:
        """Queue several."""
        ...

    def commit(self) -> None:
        """Make queued records durable; raises OSError and keeps them when the disk refuses."""
        ...


class Recorder:
    """Numbers assignments and records outcomes; used by the event loop's thread only.

    Attributes:
        written: Records that are durable.
        dropped: Records that were lost.
    """

    def __init__(self, journal: Journal, lane: int) -> None:
        self._journal = journal
        self._waiting = 0
        self._failing = False
        self.lane = lane
        self.sequence = 0
        self.dropped = 0
        self.written = 0

    def is_able(self) -> bool:
        """Whether the last commit went through."""
        return not self._failing

    def next_sequence(self) -> int:
        """A number no other assignment of this lane has."""
        self.sequence += 1
        return self.sequence

    def reserve(self, count: int) -> tuple[int, int]:
        """Numbers that no other assignment of this lane has: those above the first, up to the second."""
        before = self.sequence
        self.sequence += count
        return before, self.sequence

    def record(self, record: Record) -> None:
        """Append a record; it is durable after the next commit."""
        if self._waiting >= _MOST_WAITING:
            self.dropped += 1
            return
        self._waiting += 1
        self._journal.append(record)

    def record_body(self, body: bytes) -> None:
        """The same, for a request in its binary form: `routed_body`."""
        if self._waiting >= _MOST_WAITING:
            self.dropped += 1
            return
        self._waiting += 1
        self._journal.append_body(body)

    def record_bodies(self, bodies: Sequence[bytes]) -> None:
        """The same for several."""
        room = _MOST_WAITING - self._waiting
        if len(bodies) > room:
            self.dropped += len(bodies) - room
            bodies = bodies[:room]
        self._waiting += len(bodies)
        self._journal.append_bodies(bodies)

    def commit(self) -> None:
        """Make everything recorded durable; called before the replies of a loop turn leave."""
        if not self._waiting:
            return
        try:
            self._journal.commit()
        except OSError as error:
            if not self._failing:
                _log.error("the journal cannot be written, traffic goes to the baseline: %s", error)
            self._failing = True
            return
        if self._failing:
            _log.warning("the journal can be written again; %d records were dropped", self.dropped)
        self._failing = False
        self.written += self._waiting
        self._waiting = 0
