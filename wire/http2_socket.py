"""One connection's bytes, the same for a client and a server: from its socket into the engine, and back once a turn.

The engine raises on every call once its session has failed or is terminating, so every call is guarded: where one fails,
the connection's streams end with it.
"""

import asyncio
import ssl
from abc import abstractmethod
from enum import Enum, auto
from typing import Final, Protocol, cast

from anabranch.wire.engine import Engine, EngineError
from anabranch.wire.flush import Flusher
from anabranch.wire.http2_streams import Http2Streams
from anabranch.wire.seam import MIB

# Bytes taken from the engine for one write. The engine gathers them in a growing buffer: by the megabyte, the allocations
# cost more than the copies (4.9 ms of CPU to echo 1 MiB against 1.8 ms).
_WRITE_BYTES: Final = 64 * 1024
# What may wait in the transport behind a slow peer; the rest waits in the engine.
_TRANSPORT_BYTES: Final = 1 * MIB
_READ_BYTES: Final = 256 * 1024
_SIGN_OF_LIFE: Final = bytes(8)


class Phase(Enum):
    """The life of a connection."""

    HANDSHAKE = auto()
    """The peer has not yet sent its settings."""
    OPEN = auto()
    NOTICED = auto()
    """The client knows that no further streams are wanted; those on their way are still served."""
    CLOSING = auto()
    """Streams after the last one announced are refused; the rest end."""
    LINGERING = auto()
    """All is sent; waiting for the client to close."""
    CLOSED = auto()


_DEAF: Final = (Phase.LINGERING, Phase.CLOSED)


class SocketLimits(Protocol):
    """When a connection is given up."""

    @property
    def keepalive_timeout_s(self) -> float:
        """Seconds without a byte after the question for a sign of life."""

    @property
    def write_stall_s(self) -> float:
        """Seconds without progress of what is written."""


class SocketStats(Protocol):
    """Counts why connections are given up."""

    connections_stalled: int
    protocol_errors: int


class Http2Socket(Http2Streams, asyncio.BufferedProtocol):
    """The half of a connection that reads and writes.

    Args:
        engine: The connection's protocol state.
        loop: The clock.
        flusher: Asks for the writes.
        limits: When to give up.
        stats: Counts what goes wrong.
        buffer: Receives from the socket; shared by all connections of a loop, as the engine copies what it keeps.
    """

    __slots__ = (
        "_buffer",
        "_flusher",
        "_last_progress",
        "_last_received",
        "_loop",
        "_paused",
        "_pinged_at",
        "_socket_limits",
        "_stats",
        "_transport",
        "phase",
    )

    def __init__(
        self,
        engine: Engine,
        *,
        loop: asyncio.AbstractEventLoop,
        flusher: Flusher,
        limits: SocketLimits,
        stats: SocketStats,
        buffer: memoryview,
    ) -> None:
        super().__init__(engine)
        self._loop = loop
        self._flusher = flusher
        self._socket_limits = limits
        self._stats = stats
        self._buffer = buffer
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._pinged_at: float | None = None
        self._last_received = self._last_progress = loop.time()
        self.phase = Phase.HANDSHAKE

    @abstractmethod
    def _dispatch(self) -> None:
        """Hand on what the engine has understood."""

    @abstractmethod
    def after_write(self) -> None:
        """Do what follows from having written."""

    def _attach(self, transport: asyncio.BaseTransport) -> asyncio.Transport:
        # uvloop's transports have the methods, not the class.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_TRANSPORT_BYTES, low=_TRANSPORT_BYTES // 4)
        return self._transport

    # From the transport.

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # the buffer has one size
        """Give the transport the buffer to receive into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what arrived."""
        self._last_received = self._loop.time()
        if self.phase in _DEAF:
            return
        try:
            self._engine.receive(self._buffer, nbytes)
        except EngineError:
            # Beyond a resource limit, or no HTTP/2 at all: the engine has nothing more to say.
            self._break()
            return
        self._dispatch()
        # Most reads leave nothing to be written yet: a request that is under way, an answer for another connection.
        if not self._marked and (self.backlog_bytes or self.phase is not Phase.OPEN or self._wants_write()):
            self.mark()

    def _wants_write(self) -> bool:
        try:
            return self._engine.wants_write
        except EngineError:
            # It has failed, or ended: the flush sees to that.
            return True

    def pause_writing(self) -> None:
        """The peer does not read: keep bodies in the engine."""
        self._paused = True

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._paused = False
        self._last_progress = self._loop.time()
        self.mark()

    def eof_received(self) -> bool:
        """The peer closed its end: nothing can be answered any more."""
        return False

    # From the express path.

    def stir(self) -> None:
        """Something is to be written."""
        self.mark()

    # From the flusher.

    def mark(self) -> None:
        """Write at the end of this turn of the loop."""
        if not self._marked:
            self._marked = True
            self._flusher.mark(self)

    def write_out(self) -> None:
        """Hand to the transport what the peer's windows and the transport's buffer allow."""
        self._marked = False
        transport = self._transport
        if transport is None or self.phase is Phase.CLOSED:
            return
        before = self.backlog_bytes
        try:
            while not self._paused:
                data = self._engine.data_to_send(_WRITE_BYTES)
                if data:
                    transport.write(data)
                if len(data) < _WRITE_BYTES:
                    break
            self.backlog_bytes = self._engine.waiting_bytes
        except EngineError:
            self._break()
            return
        if self._paused:
            self.backlog_bytes += transport.get_write_buffer_size()
        elif self.backlog_bytes < before:
            self._last_progress = self._loop.time()

    # Time and end.

    def _check_life(self, now: float) -> bool:
        """Give the connection up where it is stalled.

        Returns:
            False: it was given up, or has yet to answer whether it is there.
        """
        limits = self._socket_limits
        if not self.backlog_bytes:
            self._last_progress = now
        elif now - self._last_progress > limits.write_stall_s:
            self._stats.connections_stalled += 1
            self.abort()
            return False
        if self._pinged_at is not None and self._last_received < self._pinged_at:
            if now - self._pinged_at > limits.keepalive_timeout_s:
                self._stats.connections_stalled += 1
                self.abort()
            return False
        self._pinged_at = None
        return True

    def _ask_for_life(self, now: float, keepalive_s: float) -> None:
        """Send a PING where nothing has been heard for long."""
        if now - self._last_received > keepalive_s:
            self._pinged_at = now
            try:
                self._engine.ping(_SIGN_OF_LIFE)
            except EngineError:
                return
            self.mark()

    def close(self) -> None:
        """Close after what was written has been sent."""
        self.phase = Phase.CLOSED
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.phase = Phase.CLOSED
        if self._transport is not None:
            self._transport.abort()

    def _break(self) -> None:
        """Close: the engine has given the connection up."""
        self._stats.protocol_errors += 1
        self.abort()


def receive_buffer() -> memoryview:
    """Return a buffer for all connections of a loop to receive into."""
    return memoryview(bytearray(_READ_BYTES))


def speaks_http2(transport: asyncio.Transport) -> bool:
    """Tell whether HTTP/2 was agreed on, which only TLS has to."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return tls is None or tls.selected_alpn_protocol() == "h2"
