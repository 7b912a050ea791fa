"""gRPC on one connection to a server: calls to streams, responses to calls."""

import asyncio
from typing import Final, Protocol

from anabranch.wire.client import ChannelLimits
from anabranch.wire.client_calls import CallChannel, OutgoingCall, UnaryCall
from anabranch.wire.client_framing import REFUSED_STREAM, format_timeout, status_of_http, status_of_reset
from anabranch.wire.client_streams import StreamingCall
from anabranch.wire.grpc_framing import (
    PREFIX,
    FramingError,
    Headers,
    MessageReader,
    check_encoding,
    is_grpc,
    too_large,
)
from anabranch.wire.http2_client import Http2ClientConnection
from anabranch.wire.seam import Status

_PLAIN: Final = ((b":status", b"200"), (b"content-type", b"application/grpc"))


class ConnectionChannel(CallChannel, Protocol):
    """What a connection needs of its channel."""

    loop: asyncio.AbstractEventLoop

    def opened(self, connection: "ClientConnection") -> None:
        """The server has greeted, and calls can be sent."""

    def resized(self, connection: "ClientConnection") -> None:
        """The server allows another number of streams."""

    def leave_express(self, connection: "ClientConnection") -> None:
        """Have what the express path has on the connection go on as calls."""

    def leaving(self, connection: "ClientConnection", too_many_pings: bool) -> None:
        """The server takes no further calls on the connection."""

    def lost(self, connection: "ClientConnection", reason: str, open_calls: int) -> None:
        """The connection is gone."""

    def submit(self, call: OutgoingCall) -> None:
        """Send a call, or send it again."""

    def has_room(self) -> None:
        """Calls have ended, and others may wait."""


class ClientConnection:
    """The calls on one connection.

    Args:
        channel: Holds what all connections share.
        http2: The connection.
    """

    __slots__ = (
        "_blocked",
        "_calls",
        "_channel",
        "_ending",
        "_limits",
        "_loop",
        "greeting",
        "http2",
        "is_leaving",
        "is_open",
        "max_streams",
        "open_streams",
        "served",
        "stream_limit_bytes",
    )

    def __init__(self, channel: ConnectionChannel, http2: Http2ClientConnection) -> None:
        self._channel = channel
        self._limits: ChannelLimits = channel.limits
        self._loop = channel.loop
        self._calls: dict[int, OutgoingCall] = {}
        self._ending: list[OutgoingCall] = []
        self._blocked: list[StreamingCall] = []
        self.http2 = http2
        self.greeting: asyncio.Future[str] = channel.loop.create_future()
        """Empty once the server takes calls, or why it never did."""
        self.is_open = False
        """The server has greeted."""
        self.is_leaving = False
        """No further calls are sent; the connection closes with the last one's end."""
        self.served = False
        """A response has arrived."""
        self.max_streams = 0
        self.open_streams = 0
        self.stream_limit_bytes = channel.limits.write_buffer_bytes // 4

    # From the channel.

    def begin(self, call: OutgoingCall) -> bool:
        """Send a call.

        Returns:
            False: the connection takes no further calls.
        """
        headers = call.fixed
        if call.deadline is not None:
            left_s = call.deadline - self._loop.time()
            if left_s <= 0:
                # The wheel is about to end it.
                return True
            headers = [*headers, *call.extra, (b"grpc-timeout", format_timeout(left_s))]
        elif call.extra:
            headers = [*headers, *call.extra]
        if isinstance(call, UnaryCall):
            stream_id = self.http2.request(headers, call.message, call.tail)
        else:
            stream_id = self.http2.open_request(headers)
        if not stream_id:
            return False
        call.stream_id = stream_id
        call.connection = self
        self._calls[stream_id] = call
        self.open_streams += 1
        if call.streams:
            assert isinstance(call, StreamingCall)
            call.begun()
        return True

    def take_over(self, call: OutgoingCall, stream_id: int) -> None:
        """Go on with a call that was sent on a stream already."""
        call.stream_id = stream_id
        call.connection = self
        self._calls[stream_id] = call
        self.open_streams += 1

    def end_all(self, status: Status, text: str) -> None:
        """End every call."""
        for call in list(self._calls.values()):
            call.fail(status, text)

    # From calls.

    def abandon(self, call: OutgoingCall) -> None:
        """Reset the call's stream."""
        if self._calls.pop(call.stream_id, None) is not None:
            self.http2.reset(call.stream_id)

    def watch_drain(self, call: StreamingCall) -> None:
        """Look at the call after each write."""
        self._blocked.append(call)

    def is_congested(self, call: StreamingCall) -> bool:
        """The server leaves too much unread."""
        return (
            self.http2.stream_backlog_bytes(call.stream_id) > self.stream_limit_bytes
            or self.http2.backlog_bytes > self._limits.write_buffer_bytes
        )

    # From the connection.

    def on_open(self, max_streams: int) -> None:
        """Take calls from here on."""
        self.max_streams = min(max_streams, self._limits.max_concurrent_streams)
        if not self.is_open:
            self.is_open = True
            if not self.greeting.done():
                self.greeting.set_result("")
            self._channel.opened(self)
        elif not self.is_leaving:
            self._channel.resized(self)

    def on_answer(self, stream_id: int, headers: Headers, message: bytes, trailers: Headers) -> None:
        """End the call with a whole response."""
        self.served = True
        self.open_streams -= 1
        call = self._calls.pop(stream_id, None)
        if call is None:
            return
        assert isinstance(call, UnaryCall)
        call.connection = None
        call.headers = headers
        call.body = message
        call.trailers = trailers
        call.complete()

    def on_response(self, stream_id: int, headers: Headers, end_stream: bool) -> None:
        """Take a response's headers."""
        self.served = True
        call = self._calls.get(stream_id)
        if call is None:
            return
        if end_stream:
            call.trailers = headers
            self._ending.append(call)
        else:
            call.headers = headers
        if headers != _PLAIN:
            self._read_headers(call, headers, end_stream)
        if call.streams and not call.ended:
            assert isinstance(call, StreamingCall)
            call.started(() if end_stream else headers, self._limits.max_message_bytes)

    def _read_headers(self, call: OutgoingCall, headers: Headers, end_stream: bool) -> None:
        """Look at what is not gRPC's plainest response."""
        fields = dict(headers)
        if fields.get(b":status") != b"200" or not (
            is_grpc(fields.get(b"content-type")) or (end_stream and b"grpc-status" in fields)
        ):
            call.fail(*status_of_http(fields))
            return
        encoding = fields.get(b"grpc-encoding")
        if encoding is None or encoding == b"identity":
            return
        try:
            check_encoding(encoding)
        except FramingError as error:
            # A server may only use what was offered.
            call.fail(Status.INTERNAL, error.message)
            return
        call.reader = MessageReader(self._limits.max_message_bytes, encoding)

    def on_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Take a response's bytes."""
        size = len(data)
        call = self._calls.get(stream_id)
        if isinstance(call, UnaryCall):
            if size:
                self.http2.acknowledge(stream_id, size)
            if (
                call.reader is None
                and call.body is None
                and size >= 5
                # An uncompressed message that fills the frame.
                and PREFIX.unpack_from(data) == (0, size - 5)
                and size - 5 <= self._limits.max_message_bytes
            ):
                call.body = data[5:]
            elif size:
                self._on_unary_data(call, data)
        elif isinstance(call, StreamingCall):
            self._on_stream_data(call, data)
        else:
            # The call ended before its response did.
            if size:
                self.http2.acknowledge(stream_id, size)
            return
        if end_stream and not call.ended:
            call.trailers = ()
            self._ending.append(call)

    def _on_unary_data(self, call: UnaryCall, data: bytes) -> None:
        """Take a part of a response that is not one uncompressed message in one frame."""
        reader = call.reader
        if reader is None:
            reader = call.reader = MessageReader(self._limits.max_message_bytes, None)
        try:
            messages = self._read(call, reader, data)
        except FramingError as error:
            call.fail(error.status, error.message)
            return
        if len(messages) + (call.body is not None) > 1:
            call.fail(Status.INTERNAL, "the server answered a unary call with more than one message")
        elif messages:
            call.body = messages[0]

    def _on_stream_data(self, call: StreamingCall, data: bytes) -> None:
        assert call.reader is not None
        try:
            messages = call.reader.feed(data)
        except FramingError as error:
            self.http2.acknowledge(call.stream_id, len(data))
            call.fail(error.status, error.message)
            return
        call.receive(len(data), messages)

    def _read(self, call: UnaryCall, reader: MessageReader, data: bytes) -> list[bytes]:
        """Cut messages, and count what is held of incomplete ones against the channel's limit."""
        limit = self._limits.max_buffered_bytes
        held = self._channel.buffered_bytes + len(data)
        if held > limit:
            raise too_large(f"a part that makes {held}", limit, "with all others of its channel, ")
        messages = reader.feed(data)
        call.hold(len(call.message) + len(call.tail) + reader.buffered_bytes)
        return messages

    def on_trailers(self, stream_id: int, trailers: Headers) -> None:
        """Take a response's end."""
        call = self._calls.get(stream_id)
        if call is not None:
            call.trailers = trailers
            self._ending.append(call)

    def on_reset(self, stream_id: int, error_code: int) -> None:
        """The server refuses or breaks off one stream."""
        call = self._calls.get(stream_id)
        if call is not None and error_code == REFUSED_STREAM:
            # A server that refuses by itself is asked once more only: it may have too much to do.
            call.retries_left = min(call.retries_left, 1)

    def on_stream_closed(self, stream_id: int, error_code: int) -> None:
        """End the call, or send it again."""
        self.open_streams -= 1
        call = self._calls.pop(stream_id, None)
        if call is None:
            return
        call.connection = None
        if call.trailers is not None:
            call.complete()
        elif error_code == REFUSED_STREAM and call.headers is None and call.retries_left:
            call.retries_left -= 1
            self._channel.stats.retried += 1
            self._channel.submit(call)
        else:
            call.lose(*status_of_reset(error_code))

    def on_received(self) -> None:
        """End calls that were answered before the server had read them, and use the room."""
        if self._ending:
            ending, self._ending = self._ending, []
            for call in ending:
                if not call.ended and self._calls.pop(call.stream_id, None) is not None:
                    call.connection = None
                    self.http2.reset(call.stream_id)
                    call.complete()
        if self.is_leaving and not self.open_streams:
            self.http2.finish()
        self._channel.has_room()

    def on_going_away(self, too_many_pings: bool) -> None:
        """Take no further calls."""
        self.is_leaving = True
        self._channel.leaving(self, too_many_pings)

    def on_written(self) -> None:
        """Tell streams that they can go on."""
        if self._blocked:
            blocked, self._blocked = self._blocked, []
            self._blocked += [call for call in blocked if not call.drained()]

    def on_connection_lost(self, reason: str) -> None:
        """End every call."""
        self._channel.leave_express(self)
        calls, self._calls = list(self._calls.values()), {}
        self._blocked.clear()
        self.open_streams = 0
        if not self.greeting.done():
            self.greeting.set_result(reason)
        self._channel.lost(self, reason, len(calls))
        for call in calls:
            call.lose(Status.UNAVAILABLE, f"the connection was lost: {reason}")

    def open_calls(self) -> int:
        """Return the number of calls not yet answered."""
        return len(self._calls) + self.http2.crossings
