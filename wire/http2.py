"""HTTP/2 server connections: the `http2` modules alone use the engine, which is libnghttp2.

A connection turns the engine's events into calls of a `Receiver`, and writes what the engine has to say when the flusher
asks.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final, Protocol

from anabranch.wire.engine import EngineError, Event, new_engine
from anabranch.wire.express import see_to
from anabranch.wire.flush import Flusher
from anabranch.wire.grpc_framing import Headers
from anabranch.wire.http2_responses import Http2Responses
from anabranch.wire.http2_socket import Http2Socket, Phase, speaks_http2
from anabranch.wire.http2_streams import NO_ERROR
from anabranch.wire.peer_identity import certificate_identity
from anabranch.wire.seam import Limits, WireStats

_SHUTDOWN_PING: Final = b"shutdown"
# A client closes its end when it has read the last reply; closing first could reset the connection under that reply.
_LINGER_S: Final = 1.0
# Streams already on their way when a client is asked for no more arrive within this time.
_NOTICE_S: Final = 1.0
# HTTP/2's numbers of settings.
_MAX_CONCURRENT_STREAMS: Final = 3
_INITIAL_WINDOW_SIZE: Final = 4
_MAX_HEADER_LIST_SIZE: Final = 6

# As plain numbers, which compare faster than members of an enum.
_CALL, _REQUEST, _DATA, _CLOSED = map(int, (Event.CALL, Event.REQUEST, Event.DATA, Event.CLOSED))
_HANDOVER = int(Event.HANDOVER)


class Receiver(Protocol):
    """What one connection's streams are given to."""

    __slots__ = ()

    def on_connected(self) -> bool:
        """Tell whether there is room for the connection."""

    def on_call(
        self, stream_id: int, known: Any, headers: Headers, timeout: bytes | None, message: bytes
    ) -> None:
        """A unary call came whole.

        Args:
            stream_id: The stream.
            known: What the engine was given for its path.
            headers: Its fields.
            timeout: Its `grpc-timeout`.
            message: Its message; acknowledged already.
        """

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


class Http2Connection(Http2Responses, Http2Socket):
    """One client's connection.

    Args:
        loop: The clock.
        limits: Windows, counts and times.
        flusher: Asks for the writes.
        stats: Counts what goes wrong.
        buffer: Receives from the socket; shared by all connections of a loop, as the engine copies what it keeps.
        unary: The unary methods, by path.
    """

    __slots__ = (
        "_limits",
        "_linger_until",
        "_notice_is_due",
        "_noticed_at",
        "_refused_bodies",
        "idle_since",
        "peer",
        "peer_identity",
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
        unary: Mapping[bytes, object],
    ) -> None:
        engine = new_engine(
            unary,
            # Beyond twice what is announced, the connection is cut.
            max_header_bytes=2 * limits.max_header_bytes,
            max_message_bytes=limits.max_message_bytes,
        )
        super().__init__(engine, loop=loop, flusher=flusher, limits=limits, stats=stats, buffer=buffer)
        self._limits = limits
        self._refused_bodies: set[int] = set()
        self._linger_until = self._noticed_at = 0.0
        self._notice_is_due = False
        self.idle_since = loop.time()
        self.peer = ""
        self.peer_identity: str | None = None

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Announce the server's settings."""
        transport = self._attach(transport)
        self.peer = _peer(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.peer_identity = certificate_identity(tls.getpeercert())
        if not self.receiver.on_connected():
            transport.abort()
            return
        if not speaks_http2(transport):
            transport.close()
            return
        limits = self._limits
        self._engine.initiate(
            {
                _MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                _INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                _MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
            },
            limits.connection_window_bytes,
        )
        self.mark()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the reason changes nothing
        """End every call."""
        self.phase = Phase.CLOSED
        self._transport = None
        self.leave_pending()
        self.receiver.on_connection_lost()

    # From the flusher.

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
        for event in self._engine.events():
            kind = event[0]
            if kind == _CALL:
                receiver.on_call(event[1], event[2], event[3], event[4], event[5])
            elif kind == _HANDOVER:
                see_to(event[1], event[2])
            elif kind == _DATA:
                receiver.on_data(event[1], event[2], event[3])
            elif kind == _REQUEST:
                receiver.on_request(event[1], event[2], event[3])
            elif kind == _CLOSED:
                if self._refused_bodies:
                    self._refused_bodies.discard(event[1])
                receiver.on_stream_closed(event[1])
            else:
                self._control(event)

    def _control(self, event: tuple[Any, ...]) -> None:
        """Follow what is not about one request's bytes."""
        match event:
            case (Event.TRAILERS, stream_id, _):
                self.receiver.on_data(stream_id, b"", True)
            case (Event.SETTINGS, _):
                if self.phase is Phase.HANDSHAKE:
                    self.phase = Phase.OPEN
                    if self._notice_is_due:
                        self.give_notice()
            case (Event.PONG, opaque):
                if opaque == _SHUTDOWN_PING:
                    self.refuse_further()
            case (Event.END, code):
                self._stats.protocol_errors += code != NO_ERROR
                self._linger()

    # From the express path.

    def stir(self) -> None:
        """A reply is to be written."""
        self._flusher.replied = True
        self.mark()

    # From the wire.

    def give_notice(self) -> None:
        """Ask the client for no further streams; after a round trip, refuse them.

        A client that has not said anything yet is asked once it has: cut off, it would take its requests for failed.
        """
        if self.phase is Phase.HANDSHAKE and not self._notice_is_due:
            self._notice_is_due = True
            self._noticed_at = self._loop.time()
        if self.phase is not Phase.OPEN:
            return
        try:
            self._engine.send_shutdown_notice()
            self._engine.ping(_SHUTDOWN_PING)
        except EngineError:
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
        except EngineError:
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
            if self._notice_is_due and now - self._noticed_at > _NOTICE_S:
                self.close()
            elif now - self.idle_since > limits.handshake_timeout_s:
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
        if not self._check_life(now):
            return
        if self.receiver.open_calls() or self.backlog_bytes:
            self.idle_since = now
        elif limits.idle_s is not None and now - self.idle_since > limits.idle_s:
            self.give_notice()
        self._ask_for_life(now, limits.keepalive_s)

    def close(self) -> None:
        """Close after what was written has been sent."""
        self._linger_until = self._loop.time() + _LINGER_S
        super().close()

    def _linger(self) -> None:
        if self.phase not in (Phase.LINGERING, Phase.CLOSED):
            self.phase = Phase.LINGERING
            self._linger_until = self._loop.time() + _LINGER_S

    def _is_done(self) -> bool:
        if self.receiver.open_calls() or self.backlog_bytes:
            return False
        try:
            return not self._engine.wants_write
        except EngineError:
            return True


def _peer(transport: asyncio.Transport) -> str:
    """Name the client's address as gRPC does."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    address = transport.get_extra_info("peername")
    if connection is None or not isinstance(address, tuple):
        return "unix:"
    if connection.family == socket.AF_INET6:
        return f"ipv6:[{address[0]}]:{address[1]}"
    return f"ipv4:{address[0]}:{address[1]}"
