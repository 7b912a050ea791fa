"""HTTP/2 server connections: this module and `http2_streams` alone know the engine, ngh2 (Cython over libnghttp2).

A connection turns the engine's events into calls of a `Receiver`, and writes what the engine has to say when the flusher
asks. The engine raises on every call once its session has failed or is terminating, so every call is guarded: where one
fails, the receiver's streams end with the connection.
"""

import asyncio
import socket
import ssl
from enum import Enum, auto
from typing import Any, Final, Protocol, cast

import ngh2

from anabranch.wire.flush import Flusher
from anabranch.wire.grpc_framing import Headers
from anabranch.wire.http2_streams import NO_ERROR, Http2Streams
from anabranch.wire.seam import MIB, Limits, WireStats

# Bytes taken from the engine for one write. The engine gathers them in a growing buffer: by the megabyte, the allocations
# cost more than the copies (4.9 ms of CPU to echo 1 MiB against 1.8 ms).
_WRITE_BYTES: Final = 64 * 1024
# What may wait in the transport behind a slow client; the rest waits in the engine.
_TRANSPORT_BYTES: Final = 1 * MIB
_READ_BYTES: Final = 256 * 1024
_SHUTDOWN_PING: Final = b"shutdown"
# A client closes its end when it has read the last reply; closing first could reset the connection under that reply.
_LINGER_S: Final = 1.0
# Streams already on their way when a client is asked for no more arrive within this time.
_NOTICE_S: Final = 1.0


class Phase(Enum):
    """The life of a connection."""

    HANDSHAKE = auto()
    OPEN = auto()
    NOTICED = auto()
    """The client knows that no further streams are wanted; those on their way are still served."""
    CLOSING = auto()
    """Streams after the last one announced are refused; the rest end."""
    LINGERING = auto()
    """All is sent; waiting for the client to close."""
    CLOSED = auto()


_DataReceived, _RequestReceived, _StreamClosed = ngh2.DataReceived, ngh2.RequestReceived, ngh2.StreamClosed

_DEAF: Final = (Phase.LINGERING, Phase.CLOSED)


class Receiver(Protocol):
    """What one connection's streams are given to."""

    __slots__ = ()

    def on_connected(self) -> bool:
        """Tell whether there is room for the connection."""

    def on_request(self, stream_id: int, headers: Headers, end_stream: bool) -> None:
        """A stream opened."""

    def on_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """A stream's bytes arrived, or its end; the receiver acknowledges the bytes."""

    def on_stream_closed(self, stream_id: int) -> None:
        """A stream is over in both directions."""

    def on_written(self) -> None:
        """Bytes left, and some may have made room."""

    def on_connection_lost(self) -> None:
        """All streams are over."""

    def open_calls(self) -> int:
        """Return the number of calls not yet answered."""


class Http2Connection(Http2Streams, asyncio.BufferedProtocol):
    """One client's connection.

    Args:
        loop: The clock.
        limits: Windows, counts and times.
        flusher: Asks for the writes.
        stats: Counts what goes wrong.
        buffer: Receives from the socket; shared by all connections of a loop, as the engine copies what it keeps.
    """

    __slots__ = (
        "_buffer",
        "_flusher",
        "_last_progress",
        "_last_received",
        "_limits",
        "_linger_until",
        "_loop",
        "_noticed_at",
        "_paused",
        "_pinged_at",
        "_stats",
        "_transport",
        "idle_since",
        "peer",
        "phase",
        "receiver",
    )

    receiver: Receiver

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        flusher: Flusher,
        stats: WireStats,
        buffer: memoryview,
    ) -> None:
        super().__init__(limits)
        self._loop = loop
        self._limits = limits
        self._flusher = flusher
        self._stats = stats
        self._buffer = buffer
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._pinged_at: float | None = None
        self._linger_until = self._noticed_at = 0.0
        self._last_received = self._last_progress = self.idle_since = loop.time()
        self.peer = ""
        self.phase = Phase.HANDSHAKE

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Announce the server's settings."""
        # uvloop's transports have the methods, not the class.
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        self.peer = _peer(transport)
        if not self.receiver.on_connected():
            transport.abort()
            return
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            transport.close()
            return
        transport.set_write_buffer_limits(high=_TRANSPORT_BYTES, low=_TRANSPORT_BYTES // 4)
        limits = self._limits
        self._engine.initiate_connection(
            {
                ngh2.Setting.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                ngh2.Setting.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                ngh2.Setting.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
            }
        )
        self._engine.set_local_window_size(limits.connection_window_bytes)
        self.mark()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # the buffer has one size
        """Give the transport the buffer to receive into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what arrived."""
        self._last_received = self._loop.time()
        if self.phase in _DEAF:
            return
        try:
            self._engine.receive_data(self._buffer[:nbytes])
        except ngh2.NGH2Error:
            # Beyond a resource limit, or no HTTP/2 at all: the engine has nothing more to say.
            self._break()
            return
        self._dispatch()
        if not self._marked:
            self.mark()

    def pause_writing(self) -> None:
        """The client does not read: keep replies in the engine."""
        self._paused = True

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused = False
        self._last_progress = self._loop.time()
        self.mark()

    def eof_received(self) -> bool:
        """The client closed its end: nothing can be answered any more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the reason changes nothing
        """End every call."""
        self.phase = Phase.CLOSED
        self._transport = None
        self.receiver.on_connection_lost()

    # From the flusher.

    def mark(self) -> None:
        """Write at the end of this turn of the loop."""
        if not self._marked:
            self._marked = True
            self._flusher.mark(self)

    def write_out(self) -> None:
        """Hand to the transport what the client's windows and the transport's buffer allow."""
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
            self.backlog_bytes = self._engine.queued_body_size()
        except ngh2.NGH2Error:
            self._break()
            return
        if self._paused:
            self.backlog_bytes += transport.get_write_buffer_size()
        elif self.backlog_bytes < before:
            self._last_progress = self._loop.time()

    def after_write(self) -> None:
        """Report what writing ended or made room for."""
        if self._transport is None or self.phase is Phase.CLOSED:
            return
        self._dispatch()
        if self._refused_bodies and not self._paused:
            # Only now: the engine drops a response that it has not written when its stream is reset.
            written = [each for each in self._refused_bodies if not self.stream_backlog_bytes(each)]
            self._refused_bodies.difference_update(written)
            for stream_id in written:
                self.reset(stream_id, NO_ERROR)
        self.receiver.on_written()
        if self.phase is Phase.CLOSING and not self._paused and self._is_done():
            self._linger()

    def _dispatch(self) -> None:
        receiver = self.receiver
        event: Any  # its class says which attributes it has
        for event in self._engine.events():
            kind = event.__class__
            if kind is _DataReceived:
                receiver.on_data(event.stream_id, event.data, event.end_stream)
            elif kind is _RequestReceived:
                receiver.on_request(event.stream_id, event.headers, event.end_stream)
            elif kind is _StreamClosed:
                if self._refused_bodies:
                    self._refused_bodies.discard(event.stream_id)
                receiver.on_stream_closed(event.stream_id)
            else:
                self._control(event)

    def _control(self, event: Any) -> None:
        """Follow what is not about one request's bytes."""
        match event:
            case ngh2.TrailersReceived():
                self.receiver.on_data(event.stream_id, b"", True)
            case ngh2.SettingsReceived():
                if self.phase is Phase.HANDSHAKE:
                    self.phase = Phase.OPEN
            case ngh2.PingAcknowledged():
                if event.opaque_data == _SHUTDOWN_PING:
                    self.refuse_further()
            case ngh2.ConnectionClosed():
                self._stats.protocol_errors += event.error_code != NO_ERROR
                self._linger()

    # From the wire.

    def give_notice(self) -> None:
        """Ask the client for no further streams; after a round trip, refuse them."""
        if self.phase is Phase.HANDSHAKE:
            self.close()
        if self.phase is not Phase.OPEN:
            return
        try:
            self._engine.send_shutdown_notice()
            self._engine.ping(_SHUTDOWN_PING)
        except ngh2.NGH2Error:
            return
        self.phase = Phase.NOTICED
        self._noticed_at = self._loop.time()
        self.mark()

    def refuse_further(self) -> None:
        """Refuse streams from here on, and close once the open ones have ended."""
        if self.phase is not Phase.NOTICED:
            return
        try:
            self._engine.send_goaway(NO_ERROR)
        except ngh2.NGH2Error:
            return
        self.phase = Phase.CLOSING
        self.mark()

    def check(self, now: float) -> None:
        """Enforce the limits of time; called about once a second.

        Args:
            now: The loop's time.
        """
        limits = self._limits
        if self.phase is Phase.HANDSHAKE:
            if now - self.idle_since > limits.handshake_timeout_s:
                self._stats.connections_stalled += 1
                self.abort()
            return
        if self.phase is Phase.CLOSED:
            # A client that does not read would keep the transport from closing.
            if now > self._linger_until:
                self.abort()
            return
        if self.phase is Phase.LINGERING:
            if now > self._linger_until:
                self.close()
            return
        if self.phase is Phase.NOTICED and now - self._noticed_at > _NOTICE_S:
            self.refuse_further()
        if not self.backlog_bytes:
            self._last_progress = now
        elif now - self._last_progress > limits.write_stall_s:
            self._stats.connections_stalled += 1
            self.abort()
            return
        if self._pinged_at is not None and self._last_received < self._pinged_at:
            if now - self._pinged_at > limits.keepalive_timeout_s:
                self._stats.connections_stalled += 1
                self.abort()
            return
        self._pinged_at = None
        if self.receiver.open_calls() or self.backlog_bytes:
            self.idle_since = now
        elif limits.idle_s is not None and now - self.idle_since > limits.idle_s:
            self.give_notice()
        if now - self._last_received > limits.keepalive_s:
            self._pinged_at = now
            try:
                self._engine.ping()
            except ngh2.NGH2Error:
                return
            self.mark()

    def close(self) -> None:
        """Close after what was written has been sent."""
        self.phase = Phase.CLOSED
        self._linger_until = self._loop.time() + _LINGER_S
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

    def _linger(self) -> None:
        if self.phase not in (Phase.LINGERING, Phase.CLOSED):
            self.phase = Phase.LINGERING
            self._linger_until = self._loop.time() + _LINGER_S

    def _is_done(self) -> bool:
        if self.receiver.open_calls() or self.backlog_bytes:
            return False
        try:
            return not self._engine.want_write
        except ngh2.NGH2Error:
            return True


def receive_buffer() -> memoryview:
    """Return a buffer for all connections of a loop to receive into."""
    return memoryview(bytearray(_READ_BYTES))


def _peer(transport: asyncio.Transport) -> str:
    """Name the client's address as gRPC does."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    address = transport.get_extra_info("peername")
    if connection is None or not isinstance(address, tuple):
        return "unix:"
    if connection.family == socket.AF_INET6:
        return f"ipv6:[{address[0]}]:{address[1]}"
    return f"ipv4:{address[0]}:{address[1]}"
