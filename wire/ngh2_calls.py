"""The calls of the fast wire: what a handler holds while it works on a request."""

from collections import deque
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

from anabranch.wire.calls import ServedCall
from anabranch.wire.grpc_framing import (
    OK_TRAILERS,
    RESPONSE_HEADERS,
    Headers,
    MessageReader,
    decode_metadata,
    encode_metadata,
    frame,
    frame_prefix,
    status_trailers,
)
from anabranch.wire.seam import Call, Metadata, Status, UnaryHandler, WireStats

# Below this size, copying a message behind its prefix costs less than queueing the two apart.
_COPIED_BYTES: Final = 16 * 1024


class CallOwner(Protocol):
    """The connection that a call is answered on."""

    __slots__ = ()

    stats: WireStats
    stream_limit_bytes: int

    @property
    def peer(self) -> str:
        """The client's address."""

    @property
    def peer_identity(self) -> str | None:
        """The client's name by its certificate."""

    def answer(
        self, call: "NativeCall", headers: Headers, message: bytes, tail: bytes, trailers: Headers
    ) -> bool:
        """Send a whole response."""

    def answer_bare(self, call: "NativeCall", headers: Headers) -> bool:
        """Send a response of trailers alone."""

    def send_headers(self, stream_id: int, headers: Headers) -> bool:
        """Begin a response."""

    def send_message(self, stream_id: int, *parts: bytes) -> bool:
        """Continue a response."""

    def end(self, call: "NativeCall", trailers: Headers) -> bool:
        """End a response that has begun."""

    def backlog_bytes(self, stream_id: int) -> int:
        """Return what waits on a stream."""

    def congested(self) -> bool:
        """The client leaves too much unread on the whole connection."""

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the client send more."""

    def watch_drain(self, call: "NativeStreamCall") -> None:
        """Have `call.drained` called after each write."""


def _unserved(call: Call, message: bytes) -> None:
    raise AssertionError(f"{call.method} has no unary handler for {len(message)} bytes")


class NativeCall(ServedCall):
    """A unary call; see `anabranch.wire.seam.Call`."""

    __slots__ = (
        "_headers",
        "_metadata",
        "body",
        "half_closed",
        "handler",
        "held_bytes",
        "owner",
        "reader",
        "stream_id",
    )

    streams: ClassVar[bool] = False

    def __init__(
        self,
        owner: CallOwner,
        stream_id: int,
        method: str,
        headers: Headers,
        handler: UnaryHandler = _unserved,
    ) -> None:
        # As ServedCall does, which would cost a call a request.
        self.method = method
        self._stats = owner.stats
        self.deadline = None
        self.tick = 0
        self.cancelled = self.ended = False
        self._callbacks = None
        self.handler = handler
        self.owner = owner
        self.stream_id = stream_id
        self.half_closed = False
        self.reader: MessageReader | None = None
        self.body: bytes | None = None
        self.held_bytes = 0
        self._headers = headers
        self._metadata: list[tuple[str, str | bytes]] | None = None

    @property
    def metadata(self) -> Metadata:
        """The request's metadata.

        Raises:
            FramingError: The client sent what cannot be read; unhandled, it ends the call.
        """
        if self._metadata is None:
            self._metadata = decode_metadata(self._headers)
        return self._metadata

    @property
    def headers(self) -> Headers:
        """The request's fields as they came."""
        return self._headers

    @property
    def peer(self) -> str:
        """The client's address."""
        return self.owner.peer

    @property
    def peer_identity(self) -> str | None:
        """The client's name by its certificate."""
        return self.owner.peer_identity

    def reply(
        self, message: bytes, metadata: Metadata = (), trailing: Metadata = (), tail: bytes = b""
    ) -> None:
        """End the call with OK."""
        if self.ended:
            return
        headers = [*RESPONSE_HEADERS, *encode_metadata(metadata)] if metadata else RESPONSE_HEADERS
        trailers = [*OK_TRAILERS, *encode_metadata(trailing)] if trailing else OK_TRAILERS
        self.ended = True
        self._callbacks = None
        self.owner.answer(self, headers, message, tail, trailers)

    def fail(self, status: Status, message: str, metadata: Metadata = ()) -> None:
        """End the call with an error."""
        if self.ended:
            return
        trailers = status_trailers(status, message, metadata)
        self.ended = True
        self._callbacks = None
        self.owner.answer_bare(self, [*RESPONSE_HEADERS, *trailers])


class NativeStreamCall(NativeCall):
    """A streaming call; see `anabranch.wire.seam.StreamCall`."""

    __slots__ = (
        "_begun",
        "_blocked",
        "_delivering",
        "_half_close",
        "_inbox",
        "_message",
        "_on_drain",
        "_paused",
        "_unacknowledged",
    )

    streams: ClassVar[bool] = True

    def __init__(self, owner: CallOwner, stream_id: int, method: str, headers: Headers) -> None:
        super().__init__(owner, stream_id, method, headers)
        self._begun = False
        self._blocked = False
        self._paused = False
        self._delivering = False
        self._unacknowledged = 0
        self._inbox: deque[bytes] = deque()
        self._message: Callable[[bytes], None] | None = None
        self._half_close: Callable[[], None] | None = None
        self._on_drain: Callable[[], None] | None = None

    @property
    def writable(self) -> bool:
        """The client keeps up."""
        return not self._blocked

    def on_message(self, callback: Callable[[bytes], None]) -> None:
        """Deliver messages."""
        self._message = callback
        self.deliver()

    def on_half_close(self, callback: Callable[[], None]) -> None:
        """Tell of the end of the client's messages."""
        self._half_close = callback
        self.deliver()

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Tell when the call is writable again."""
        self._on_drain = callback

    def start(self, metadata: Metadata = ()) -> None:
        """Send the initial metadata."""
        if self._begun or self.ended:
            return
        headers = [*RESPONSE_HEADERS, *encode_metadata(metadata)]
        self._begun = True
        self.owner.send_headers(self.stream_id, headers)

    def send(self, message: bytes) -> None:
        """Send one message."""
        if self.ended:
            return
        if not self._begun:
            self.start()
        owner, stream_id = self.owner, self.stream_id
        if len(message) <= _COPIED_BYTES:
            owner.send_message(stream_id, frame(message))
        else:
            owner.send_message(stream_id, frame_prefix(message), message)
        if not self._blocked and (
            owner.backlog_bytes(stream_id) > owner.stream_limit_bytes or owner.congested()
        ):
            self._blocked = True
            owner.watch_drain(self)

    def finish(self, status: Status = Status.OK, message: str = "", trailing: Metadata = ()) -> None:
        """End the call after the messages already sent."""
        if self.ended:
            return
        trailers = status_trailers(status, message, trailing)
        self.ended = True
        self._callbacks = None
        if self._begun:
            self.owner.end(self, trailers)
        else:
            self.owner.answer_bare(self, [*RESPONSE_HEADERS, *trailers])
        self._release()

    def reply(
        self, message: bytes, metadata: Metadata = (), trailing: Metadata = (), tail: bytes = b""
    ) -> None:
        """Send one message and end the call with OK."""
        self.start(metadata)
        self.send(message + tail)
        self.finish(trailing=trailing)

    def fail(self, status: Status, message: str, metadata: Metadata = ()) -> None:
        """End the call with an error."""
        self.finish(status, message, metadata)

    def abandon(self) -> None:
        """End the call: the client is not there any more."""
        super().abandon()
        self._release()

    def pause(self) -> None:
        """Take no further messages."""
        self._paused = True

    def resume(self) -> None:
        """Take messages again."""
        self._paused = False
        self.deliver()

    def receive(self, data: bytes, messages: list[bytes], end_stream: bool) -> None:
        """Take what arrived."""
        self._unacknowledged += len(data)
        self._inbox.extend(messages)
        self.half_closed = self.half_closed or end_stream
        self.deliver()

    def deliver(self) -> None:
        """Give the handler what it takes, and the client the room for more."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._inbox and self._message is not None and not self._paused and not self.ended:
                self._message(self._inbox.popleft())
            if self.half_closed and not self._inbox and self._half_close is not None and not self.ended:
                callback, self._half_close = self._half_close, None
                callback()
        except Exception as error:  # noqa: BLE001  # whatever a handler raises ends its call alone
            self.guard(error)
        finally:
            self._delivering = False
        if self._unacknowledged and not self._blocked and not self._inbox:
            size, self._unacknowledged = self._unacknowledged, 0
            self.owner.acknowledge(self.stream_id, size)

    def drained(self) -> bool:
        """Look whether the client has caught up; called after each write.

        Returns:
            The call need not be asked again.
        """
        owner = self.owner
        if self.ended:
            return True
        waiting = owner.backlog_bytes(self.stream_id)
        # With nothing waiting of its own, a stream goes on, one message a turn, whatever others leave unread.
        if waiting > owner.stream_limit_bytes // 2 or (waiting and owner.congested()):
            return False
        self._blocked = False
        if self._on_drain is not None:
            try:
                self._on_drain()
            except Exception as error:  # noqa: BLE001  # whatever a handler raises ends its call alone
                self.guard(error)
        self.deliver()
        return True

    def _release(self) -> None:
        """Drop what only a living call needs; the handler may keep the call."""
        self._inbox.clear()
        self._message = self._half_close = self._on_drain = None
        if self._unacknowledged:
            size, self._unacknowledged = self._unacknowledged, 0
            self.owner.acknowledge(self.stream_id, size)
