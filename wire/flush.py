"""One write a turn of the event loop: the journal's commit, then every connection's replies.

The order is the guarantee: between a reply and its bytes on a socket there is always a run of `before_flush`.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from anabranch.wire.seam import WireStats

logger = logging.getLogger(__name__)

_MAX_ROUNDS: Final = 16


class Flushable(Protocol):
    """What writes when its turn comes."""

    __slots__ = ()

    def write_out(self) -> None:
        """Write what is queued; runs no handler."""

    def after_write(self) -> None:
        """Do what follows from having written; may run handlers."""


class Flusher:
    """Gathers what wants to write until the end of the loop's turn.

    Args:
        loop: Runs the flush.
        before_flush: Runs before any reply is written.
        stats: Counts its failures.
    """

    __slots__ = ("_before", "_loop", "_marked", "_scheduled", "_stats", "replied")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, before_flush: Callable[[], None] | None, stats: WireStats
    ) -> None:
        self._loop = loop
        self._before = before_flush
        self._stats = stats
        self._marked: list[Flushable] = []
        self.replied = False
        """A reply is queued: set by whoever queues it."""
        self._scheduled = False

    def mark(self, writer: Flushable) -> None:
        """Have `writer` write at the end of this turn; mark each only once a turn."""
        self._marked.append(writer)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        if self.replied:
            self._commit()
        writers, self._marked = self._marked, []
        for writer in writers:
            _guarded(writer.write_out)
        # Replies given from here on are written in the next turn, after another commit.
        for writer in writers:
            _guarded(writer.after_write)

    def _commit(self) -> None:
        # A commit that itself answers calls is run again, for those.
        for _ in range(_MAX_ROUNDS):
            if not self.replied:
                return
            self.replied = False
            if self._before is None:
                return
            try:
                self._before()
            except Exception:
                # The data path never fails because of the journal: the replies leave all the same.
                self._stats.flush_errors += 1
                logger.exception("before_flush failed: the replies of this turn leave unrecorded")


def _guarded(step: Callable[[], None]) -> None:
    """Keep one connection's failure from the others of its turn."""
    try:
        step()
    except Exception:
        logger.exception("a connection failed while it wrote")
