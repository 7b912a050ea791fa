"""Streaming calls of a channel: messages in both directions, each under HTTP/2's flow control."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Final, Protocol, cast

from anabranch.wire.client import Done, Origin, Reply
from anabranch.wire.client_calls import RETRIES, CallChannel, Fields, OutgoingCall
from anabranch.wire.client_framing import read_metadata, read_status
from anabranch.wire.grpc_framing import Headers, MessageReader, frame, frame_prefix
from anabranch.wire.http2_client import Http2ClientConnection
from anabranch.wire.http2_streams import COPIED_BYTES
from anabranch.wire.seam import Metadata, Status

logger = logging.getLogger(__name__)

# What has been sent is kept up to this size until a response begins, so that a refused call can be sent again.
_REPLAYED_BYTES: Final = 64 * 1024


class StreamConnection(Protocol):
    """What a streaming call needs of the connection it was sent on."""

    http2: Http2ClientConnection

    def is_congested(self, call: "StreamingCall") -> bool:
        """The server leaves too much unread."""

    def watch_drain(self, call: "StreamingCall") -> None:
        """Have `call.drained` called after each write."""


class StreamingCall(OutgoingCall):
    """A streaming call; see `anabranch.wire.client.ClientStreamCall`.

    Args:
        channel: Where it was begun.
        loop: Runs what `resume` sets going.
        fixed: The headers that all calls of the method have in common.
        extra: The metadata's.
        done: Takes the reply.
        deadline: On the loop's clock.
        on_message: Takes each message.
        on_start: Takes the initial metadata.
        on_drain: Learns that the call is writable again.
    """

    __slots__ = (
        "_blocked",
        "_delivering",
        "_half_closed",
        "_http2",
        "_inbox",
        "_loop",
        "_on_drain",
        "_on_message",
        "_on_start",
        "_paused",
        "_reply",
        "_sent",
        "_unacknowledged",
    )

    streams: ClassVar[bool] = True

    def __init__(
        self,
        channel: CallChannel,
        loop: asyncio.AbstractEventLoop,
        fixed: Fields,
        extra: Fields,
        done: Done,
        deadline: float | None,
        *,
        on_message: Callable[[bytes], None],
        on_start: Callable[[Metadata], None] | None,
        on_drain: Callable[[], None] | None,
    ) -> None:
        self.channel = channel
        self.fixed = fixed
        self.extra = extra
        self.done = done
        self.deadline = deadline
        self.connection = None
        self.stream_id = self.tick = 0
        self.ended = False
        self.headers = self.trailers = self.reader = None
        self.retries_left = RETRIES
        self.held_bytes = 0
        channel.open_calls += 1
        self._loop = loop
        self._on_message: Callable[[bytes], None] | None = on_message
        self._on_start = on_start
        self._on_drain = on_drain
        self._blocked = self._paused = self._delivering = self._half_closed = False
        self._inbox: deque[bytes] = deque()
        self._sent: list[bytes] | None = []
        self._reply: Reply | None = None
        self._unacknowledged = 0
        self._http2: Http2ClientConnection | None = None

    @property
    def writable(self) -> bool:
        """The server keeps up."""
        return not self._blocked

    # From the caller.

    def send(self, message: bytes) -> None:
        """Send one message."""
        if self.ended or self._half_closed or self._reply is not None:
            return
        if self._sent is not None:
            self._sent.append(message)
            self.hold(self.held_bytes + len(message))
            if self.connection is not None and self.held_bytes > _REPLAYED_BYTES:
                self._forget_sent()
        if self.connection is not None:
            self._write(message)
        elif self.held_bytes > self.channel.limits.write_buffer_bytes // 4:
            self._blocked = True

    def half_close(self) -> None:
        """Tell the server that no further messages come."""
        if self.ended or self._half_closed:
            return
        self._half_closed = True
        if self.connection is not None:
            self._peer.http2.end_request(self.stream_id)

    def pause(self) -> None:
        """Take no further messages."""
        self._paused = True

    def resume(self) -> None:
        """Take messages again, from the next turn of the loop on."""
        self._paused = False
        self._loop.call_soon(self.deliver)

    # From the connection.

    def begun(self) -> None:
        """Send what was given before there was a connection, or what a refused stream carried."""
        # Beyond the stream's end: what arrived of it keeps its part of the connection's window until it is delivered.
        self._http2 = self._peer.http2
        for message in self._sent or ():
            self._write(message)
        if self._blocked:
            self._peer.watch_drain(self)
        if self._half_closed:
            self._peer.http2.end_request(self.stream_id)
        if self.held_bytes > _REPLAYED_BYTES:
            self._forget_sent()

    def started(self, headers: Headers, max_message_bytes: int) -> None:
        """Take the response's headers."""
        self._forget_sent()
        if self.reader is None:
            self.reader = MessageReader(max_message_bytes, None)
        if self._on_start is not None:
            self._guard(self._on_start, read_metadata(headers))

    def receive(self, size_bytes: int, messages: list[bytes]) -> None:
        """Take what arrived."""
        self._unacknowledged += size_bytes
        self._inbox.extend(messages)
        self.deliver()

    def complete(self) -> None:
        """End the call once its messages are delivered."""
        trailers = self.trailers or ()
        status, text = read_status(trailers)
        if status is Status.OK and self.reader is not None and self.reader.buffered_bytes:
            status, text = Status.INTERNAL, "the response ended within a message"
        self._reply = Reply(status, text, b"", self.headers or (), trailers)
        self.deliver()

    def lose(self, status: Status, text: str) -> None:
        """End the call, whose connection is gone, once the messages that did arrive are delivered."""
        self.connection = None
        if not self.ended and self._reply is None:
            self._reply = Reply(status, text, b"", self.headers or (), (), Origin.CLIENT)
            self.deliver()

    def deliver(self) -> None:
        """Give the caller what it takes, and the server the room for more."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._inbox and not self._paused and self._on_message is not None:
                self._guard(self._on_message, self._inbox.popleft())
        finally:
            self._delivering = False
        if self.ended:
            return
        if not self._inbox:
            self._acknowledge()
            if self._reply is not None:
                self.finish(self._reply)

    def drained(self) -> bool:
        """Look whether the server has caught up; called after each write.

        Returns:
            The call need not be asked again.
        """
        if self.ended or self.connection is None:
            return True
        if self._peer.is_congested(self):
            return False
        self._blocked = False
        if self._on_drain is not None:
            self._guard(self._on_drain)
        return True

    @property
    def _peer(self) -> StreamConnection:
        return cast(StreamConnection, self.connection)

    def _write(self, message: bytes) -> None:
        http2 = self._peer.http2
        if len(message) <= COPIED_BYTES:
            http2.send_body(self.stream_id, frame(message))
        else:
            http2.send_body(self.stream_id, frame_prefix(message), message)
        if not self._blocked and self._peer.is_congested(self):
            self._blocked = True
            self._peer.watch_drain(self)

    def _forget_sent(self) -> None:
        if self._sent is not None:
            # Without what it carried, the call cannot be sent again.
            self._sent = None
            self.retries_left = 0
            self.hold(0)

    def _acknowledge(self) -> None:
        size, self._unacknowledged = self._unacknowledged, 0
        if size and self._http2 is not None:
            self._http2.acknowledge(self.stream_id, size)
            self._http2.mark()

    def _guard(self, callback: Callable[..., None], *arguments: object) -> None:
        """Run a callback; one that raises ends its call."""
        try:
            callback(*arguments)
        except Exception:
            logger.exception("a callback of a streaming call failed")
            self.fail(Status.INTERNAL, "a callback of the call failed")

    def _end(self) -> None:
        super()._end()
        self._acknowledge()
        self._http2 = None
        self._inbox.clear()
        self._on_message = self._on_start = self._on_drain = None
        self._sent = self._reply = None
