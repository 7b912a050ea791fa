"""HTTP/2 client connections: the engine's events as calls of a `ClientReceiver`, requests as streams.

The first thing a server must send is its settings; with them a connection is open. A server that says GOAWAY gets no
further streams, and those that it will not look at end as refused.
"""

import asyncio
import contextlib
import socket
from typing import Any, Final, Protocol

from anabranch.wire.client import ChannelLimits
from anabranch.wire.engine import EngineError, Event, new_engine
from anabranch.wire.express import Upstream, see_to
from anabranch.wire.flush import Flusher
from anabranch.wire.grpc_framing import Headers
from anabranch.wire.http2_socket import Http2Socket, Phase, SocketStats, speaks_http2
from anabranch.wire.http2_streams import NO_ERROR

# HTTP/2's numbers of settings.
_ENABLE_PUSH: Final = 2
_INITIAL_WINDOW_SIZE: Final = 4
_MAX_HEADER_LIST_SIZE: Final = 6

# As plain numbers, which compare faster than members of an enum.
_ANSWER, _RESPONSE, _DATA = map(int, (Event.ANSWER, Event.RESPONSE, Event.DATA))
_TRAILERS, _CLOSED = map(int, (Event.TRAILERS, Event.CLOSED))

_TOO_MANY_PINGS: Final = b"too_many_pings"
# For what was written last to leave.
_LINGER_S: Final = 1.0


class ClientReceiver(Protocol):
    """What one connection's responses are given to."""

    __slots__ = ()

    def on_open(self, max_streams: int) -> None:
        """The server's settings arrived, the first or further ones; so many streams may be open at once."""

    def on_answer(self, stream_id: int, headers: Headers, message: bytes, trailers: Headers) -> None:
        """The response to a whole request came whole, gRPC's plainest; acknowledged already, and its stream is over."""

    def on_response(self, stream_id: int, headers: Headers, end_stream: bool) -> None:
        """A response began, or is whole."""

    def on_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """A response's bytes arrived, or its end; the receiver acknowledges the bytes."""

    def on_trailers(self, stream_id: int, trailers: Headers) -> None:
        """A response ended."""

    def on_reset(self, stream_id: int, error_code: int) -> None:
        """The server reset a stream; that it is over follows."""

    def on_stream_closed(self, stream_id: int, error_code: int) -> None:
        """A stream is over in both directions."""

    def on_received(self) -> None:
        """All that arrived together has been handed on."""

    def on_going_away(self, too_many_pings: bool) -> None:
        """The server takes no further streams on this connection."""

    def on_written(self) -> None:
        """Bytes left, and some may have made room."""

    def on_connection_lost(self, reason: str) -> None:
        """All streams are over."""

    def open_calls(self) -> int:
        """Return the number of calls not yet answered."""


class Http2ClientConnection(Http2Socket):
    """One connection to a server.

    Args:
        loop: The clock.
        limits: Windows and times.
        flusher: Asks for the writes.
        stats: Counts what goes wrong.
        buffer: Receives from the socket; shared by all connections of a loop, as the engine copies what it keeps.
    """

    __slots__ = ("_close_by", "_limits", "_reason", "receiver")

    receiver: ClientReceiver

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: ChannelLimits,
        flusher: Flusher,
        stats: SocketStats,
        buffer: memoryview,
    ) -> None:
        engine = new_engine(
            None,
            # Beyond twice what is announced, the connection is cut.
            max_header_bytes=2 * limits.max_header_bytes,
            max_message_bytes=limits.max_message_bytes,
        )
        super().__init__(engine, loop=loop, flusher=flusher, limits=limits, stats=stats, buffer=buffer)
        self._limits = limits
        self._reason = ""
        self._close_by = 0.0

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Announce the client's settings."""
        transport = self._attach(transport)
        if not speaks_http2(transport):
            self._end("the server does not offer HTTP/2 by ALPN")
            return
        _bound_silence(transport, self._limits.keepalive_timeout_s)
        limits = self._limits
        self._engine.initiate(
            {
                _ENABLE_PUSH: 0,
                _INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                _MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
            },
            limits.connection_window_bytes,
        )
        self.mark()

    def connection_lost(self, exc: Exception | None) -> None:
        """End every call."""
        self.phase = Phase.CLOSED
        self._transport = None
        self.leave_pending()
        reason = self._reason or ("the server closed the connection" if exc is None else str(exc))
        self.receiver.on_connection_lost(reason)

    # From the flusher.

    def after_write(self) -> None:
        """Report what writing ended or made room for."""
        if self._transport is None or self.phase is Phase.CLOSED:
            return
        self._dispatch()
        self.receiver.on_written()

    def _dispatch(self) -> None:
        receiver = self.receiver
        for event in self._engine.events():
            kind = event[0]
            if kind == _ANSWER:
                receiver.on_answer(event[1], event[2], event[3], event[4])
            elif kind == _DATA:
                receiver.on_data(event[1], event[2], event[3])
            elif kind == _RESPONSE:
                receiver.on_response(event[1], event[2], event[3])
            elif kind == _TRAILERS:
                receiver.on_trailers(event[1], event[2])
            elif kind == _CLOSED:
                receiver.on_stream_closed(event[1], event[2])
            else:
                self._control(event)
        receiver.on_received()

    def _control(self, event: tuple[Any, ...]) -> None:
        """Follow what is not about one response's bytes."""
        match event:
            case (Event.RESET, stream_id, code):
                self.receiver.on_reset(stream_id, code)
            case (Event.SETTINGS, allowed):
                if self.phase is Phase.HANDSHAKE:
                    self.phase = Phase.OPEN
                self.receiver.on_open(allowed)
            case (Event.GOAWAY, debug_data):
                if self.phase in (Phase.HANDSHAKE, Phase.OPEN):
                    self.phase = Phase.CLOSING
                self.receiver.on_going_away(debug_data == _TOO_MANY_PINGS)
            case (Event.HANDOVER, take_over, told):
                see_to(take_over, told)
            case (Event.END, code):
                self._stats.protocol_errors += code != NO_ERROR
                self._end(f"HTTP/2 ended with error code {code}")

    # From the channel.

    def use(self, upstream: Upstream, max_streams: int) -> None:
        """Have the express path send requests here too."""
        upstream.open(self._engine, max_streams)

    def disuse(self, upstream: Upstream) -> None:
        """Have it send none any more."""
        upstream.close(self._engine)

    def request(self, headers: Headers, message: bytes, tail: bytes) -> int:
        """Queue a whole request.

        Args:
            headers: With the pseudo headers first.
            message: The message.
            tail: The rest of it; apart, as a large message is not copied.

        Returns:
            The stream; 0: the connection takes no further requests.
        """
        try:
            stream_id = self._engine.request(headers, message, tail)
        except EngineError:
            return 0
        self.backlog_bytes += len(message) + len(tail)
        if not self._marked:
            self.mark()
        return stream_id

    def open_request(self, headers: Headers) -> int:
        """Queue a request's headers; see `request`."""
        try:
            stream_id = self._engine.send_request(headers)
        except EngineError:
            return 0
        self.mark()
        return stream_id

    def end_request(self, stream_id: int) -> None:
        """Queue the end of a request's body."""
        with contextlib.suppress(EngineError):
            self._engine.end_stream(stream_id)
            self.mark()

    def check(self, now: float, keepalive_s: float) -> None:
        """Enforce the limits of time; called about once a second.

        Args:
            now: The loop's time.
            keepalive_s: Seconds without a byte after which a server with open calls is asked for a sign of life.
        """
        if self.phase is Phase.HANDSHAKE:
            # Whoever connects bounds the time.
            return
        if self.phase is Phase.CLOSED:
            # A server that does not read would keep the transport from closing.
            if now > self._close_by:
                self.abort()
            return
        if self._check_life(now) and self.receiver.open_calls():
            self._ask_for_life(now, keepalive_s)

    def finish(self) -> None:
        """Say goodbye, and close."""
        with contextlib.suppress(EngineError):
            self._engine.send_goaway(NO_ERROR)
            self.write_out()
        self.close()

    def close(self) -> None:
        """Close after what was written has been sent."""
        self._close_by = self._loop.time() + _LINGER_S
        super().close()

    def abort(self) -> None:
        """Close at once."""
        self._reason = self._reason or "the connection was given up"
        super().abort()

    def _break(self) -> None:
        self._reason = "the server's bytes are no HTTP/2, or beyond its limits"
        super()._break()

    def _end(self, reason: str) -> None:
        self._reason = reason
        if self._transport is not None:
            # What the engine still has to say is why.
            self.write_out()
        self.close()


def _bound_silence(transport: asyncio.Transport, timeout_s: float) -> None:
    """Have the system give a connection up whose peer does not confirm what was sent."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if connection is not None and option is not None:
        connection.setsockopt(socket.IPPROTO_TCP, option, round(timeout_s * 1000))
