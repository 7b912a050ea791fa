"""The engine's calls for one connection's streams, each guarded: the engine raises once its session fails or terminates."""

from abc import ABC, abstractmethod
from typing import Final

from anabranch.wire.engine import Engine, EngineError, Event
from anabranch.wire.express import Table, see_to

NO_ERROR: Final = 0x0
CANCEL: Final = 0x8

# Below this size, copying a body behind its prefix costs less than queueing the two apart.
COPIED_BYTES: Final = 16 * 1024


class Http2Streams(ABC):
    """What may be done with the streams of a connection, by a client or a server.

    Args:
        engine: The connection's protocol state.
    """

    __slots__ = ("_engine", "_marked", "backlog_bytes")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._marked = False
        self.backlog_bytes = 0
        """Bytes of bodies that wait for the peer to read."""

    @property
    def crossings(self) -> int:
        """Requests on the express path that the connection has a side of."""
        return self._engine.crossings

    def join(self, *served: object) -> None:
        """Take part in the express path; see `Engine.join`."""
        self._engine.join(self, *served)

    def leave(self, table: Table) -> None:
        """Take over what is on the express path."""
        for _, take_over, told in table.leave(self._engine):
            see_to(take_over, told)

    def leave_pending(self) -> None:
        """See to what the express path told in the read or write that was the connection's last."""
        for event in self._engine.events():
            if event[0] == Event.HANDOVER:
                see_to(event[1], event[2])

    @abstractmethod
    def mark(self) -> None:
        """Write at the end of this turn of the loop."""

    def send_body(self, stream_id: int, *parts: bytes) -> bool:
        """Queue bytes of a body that has begun."""
        try:
            for part in parts:
                self._engine.send_data(stream_id, part)
                self.backlog_bytes += len(part)
        except EngineError:
            return False
        self.mark()
        return True

    def reset(self, stream_id: int, error_code: int = CANCEL) -> None:
        """Abandon a stream and what is queued on it."""
        try:
            self._engine.reset_stream(stream_id, error_code)
        except EngineError:
            return
        self.mark()

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the peer send `size` bytes more."""
        try:
            self._engine.acknowledge(stream_id, size)
        except EngineError:
            # The connection is ending: nobody will send more.
            return

    def stream_backlog_bytes(self, stream_id: int) -> int:
        """Return the bytes of one stream that wait for the peer to read."""
        return self._engine.waiting_on(stream_id)
