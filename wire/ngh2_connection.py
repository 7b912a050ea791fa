"""gRPC on one HTTP/2 connection: streams to calls, calls to handlers."""

from collections import deque

from anabranch.wire.grpc_framing import (
    ACCEPT_ENCODING,
    CONTENT_TYPE,
    PREFIX,
    RESPONSE_HEADERS,
    FramingError,
    Headers,
    MessageReader,
    check_encoding,
    is_grpc,
    parse_timeout,
    status_trailers,
)
from anabranch.wire.http2 import Http2Connection
from anabranch.wire.ngh2_calls import NativeCall, NativeStreamCall
from anabranch.wire.ngh2_shared import Shared
from anabranch.wire.seam import Status, UnaryHandler


class GrpcConnection:
    """The calls of one connection.

    Args:
        wire: Holds what all connections share.
        http2: The connection.
    """

    __slots__ = (
        "_blocked",
        "_calls",
        "_flusher",
        "_held",
        "_http2",
        "_limits",
        "_loop",
        "_stream",
        "_unary",
        "_wheel",
        "_wire",
        "stats",
        "stream_limit_bytes",
    )

    def __init__(self, wire: Shared, http2: Http2Connection) -> None:
        self._wire = wire
        self._http2 = http2
        # Each attribute saves a look-up a request.
        self._limits = wire.limits
        self._loop = wire.loop
        self._wheel = wire.wheel
        self._flusher = wire.flusher
        self._unary = wire.unary
        self._stream = wire.stream
        self._calls: dict[int, NativeCall] = {}
        self._held: deque[tuple[NativeCall, bytes]] = deque()
        self._blocked: list[NativeStreamCall] = []
        self.stats = wire.stats
        self.stream_limit_bytes = wire.limits.write_buffer_bytes // 4

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._http2.peer

    @property
    def peer_identity(self) -> str | None:
        """The client's name by its certificate."""
        return self._http2.peer_identity

    # From the connection.

    def on_connected(self) -> bool:
        """Tell whether there is room for the connection."""
        return self._wire.remember(self._http2, self)

    def on_call(
        self,
        stream_id: int,
        known: tuple[str, UnaryHandler],
        headers: Headers,
        timeout: bytes | None,
        message: bytes,
    ) -> None:
        """Serve a unary call that came whole."""
        self.stats.calls += 1
        call = NativeCall(self, stream_id, known[0], headers, known[1])
        call.half_closed = True
        if timeout is not None and not self._watch(call, timeout, True):
            return
        self._calls[stream_id] = call
        self._serve(call, message)

    def on_request(self, stream_id: int, headers: Headers, end_stream: bool) -> None:
        """Open a call, or refuse it."""
        self.stats.calls += 1
        fields = dict(headers)
        known = self._unary.get(fields.get(b":path", b""))
        if (
            known is None
            or fields.get(b"content-type") != CONTENT_TYPE
            or fields[b":method"] != b"POST"
            or b"grpc-encoding" in fields
        ):
            self._open_rare(stream_id, headers, fields, end_stream)
            return
        call = NativeCall(self, stream_id, known[0], headers, known[1])
        timeout = fields.get(b"grpc-timeout")
        if timeout is not None and not self._watch(call, timeout, end_stream):
            return
        self._calls[stream_id] = call
        if end_stream:
            self.on_data(stream_id, b"", True)

    def _open_rare(
        self, stream_id: int, headers: Headers, fields: dict[bytes, bytes], end_stream: bool
    ) -> None:
        """Open what is no plain unary call: compressed, streaming, or nothing that is served."""
        if not is_grpc(fields.get(b"content-type")):
            self._refuse_http(stream_id, b"415", end_stream)
            return
        if fields[b":method"] != b"POST":
            self._refuse_http(stream_id, b"405", end_stream)
            return
        path = fields.get(b":path", b"")
        unary, streaming = self._unary.get(path), self._stream.get(path)
        call: NativeCall
        if unary is not None:
            call = NativeCall(self, stream_id, unary[0], headers, unary[1])
        elif streaming is not None:
            call = NativeStreamCall(self, stream_id, streaming[0], headers)
        else:
            call = NativeCall(self, stream_id, path.decode("latin-1"), headers)
            error = FramingError(Status.UNIMPLEMENTED, f"method {call.method} is not served here")
            self._refuse(call, error, end_stream)
            return
        encoding, timeout = fields.get(b"grpc-encoding"), fields.get(b"grpc-timeout")
        try:
            check_encoding(encoding)
        except FramingError as error:
            self._refuse(call, error, end_stream)
            return
        if timeout is not None and not self._watch(call, timeout, end_stream):
            return
        if encoding is not None or streaming is not None:
            call.reader = MessageReader(self._limits.max_message_bytes, encoding)
        self._calls[stream_id] = call
        if streaming is not None and isinstance(call, NativeStreamCall):
            try:
                streaming[1](call)
            except Exception as error:  # noqa: BLE001  # whatever a handler raises ends its call alone
                call.guard(error)
        if end_stream:
            self.on_data(stream_id, b"", True)

    def _watch(self, call: NativeCall, timeout: bytes, end_stream: bool) -> bool:
        """Give a call its deadline, or refuse it."""
        try:
            deadline = self._loop.time() + parse_timeout(timeout)
        except FramingError as error:
            self._refuse(call, error, end_stream)
            return False
        call.deadline = deadline
        call.tick = self._wheel.add(call, deadline)
        return True

    def _refuse(self, call: NativeCall, error: FramingError, end_stream: bool) -> None:
        """End a call that has not begun."""
        self.stats.refused += 1
        call.half_closed = end_stream
        call.ended = True
        headers = [*RESPONSE_HEADERS, *status_trailers(error.status, error.message)]
        if error.status is Status.UNIMPLEMENTED:
            headers.append(ACCEPT_ENCODING)
        self.answer_bare(call, headers)

    def on_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Take a call's bytes."""
        call = self._calls.get(stream_id)
        size = len(data)
        if call is None:
            # The call was answered before its request was complete.
            if size:
                self._http2.acknowledge(stream_id, size)
            return
        if call.streams:
            assert isinstance(call, NativeStreamCall)
            self._on_stream_data(call, data, end_stream)
            return
        if size:
            self._http2.acknowledge(stream_id, size)
        if end_stream:
            call.half_closed = True
            if (
                call.reader is None
                and size >= 5
                # An uncompressed message that fills the frame.
                and PREFIX.unpack_from(data) == (0, size - 5)
                and size - 5 <= self._limits.max_message_bytes
            ):
                self._serve(call, data[5:])
                return
        self._on_unary_data(call, data, end_stream)

    def _on_unary_data(self, call: NativeCall, data: bytes, end_stream: bool) -> None:
        """Take a part of a request that is not one uncompressed message in one frame."""
        reader = call.reader
        if reader is None:
            reader = call.reader = MessageReader(self._limits.max_message_bytes, None)
        try:
            messages = self._read(call, reader, data)
            given = len(messages) + (call.body is not None)
            if given > 1:
                raise FramingError(
                    Status.UNIMPLEMENTED, f"{given} messages given to {call.method}, it takes 1"
                )
            if messages:
                call.body = messages[0]
                self._hold(call, len(call.body))
            if end_stream and (reader.buffered_bytes or call.body is None):
                raise FramingError(
                    Status.INTERNAL, f"the request to {call.method} ended before its message did"
                )
        except FramingError as error:
            self.stats.refused += 1
            call.fail_now(error.status, error.message)
            return
        if end_stream:
            body, call.body = call.body, None
            self._hold(call, 0)
            assert body is not None
            self._serve(call, body)

    def _on_stream_data(self, call: NativeStreamCall, data: bytes, end_stream: bool) -> None:
        assert call.reader is not None
        try:
            messages = self._read(call, call.reader, data)
            if end_stream and call.reader.buffered_bytes:
                raise FramingError(Status.INTERNAL, f"the stream of {call.method} ended within a message")
        except FramingError as error:
            self.stats.refused += 1
            call.half_closed = end_stream
            self._http2.acknowledge(call.stream_id, len(data))
            call.fail_now(error.status, error.message)
            return
        call.receive(data, messages, end_stream)

    def _read(self, call: NativeCall, reader: MessageReader, data: bytes) -> list[bytes]:
        """Cut messages, and count what is held of incomplete ones against the wire's limit."""
        held = self._wire.buffered_bytes - call.held_bytes + reader.buffered_bytes + len(data)
        if held > self._limits.max_buffered_bytes:
            raise self._too_much(held)
        messages = reader.feed(data)
        self._hold(call, reader.buffered_bytes + (0 if call.body is None else len(call.body)))
        return messages

    def _hold(self, call: NativeCall, size: int) -> None:
        """Count what is kept for a call against the wire's limit."""
        self._wire.buffered_bytes += size - call.held_bytes
        call.held_bytes = size

    def _too_much(self, held: int) -> FramingError:
        return FramingError(
            Status.RESOURCE_EXHAUSTED,
            f"the server would hold {held} bytes of waiting requests, the limit is {self._limits.max_buffered_bytes}: "
            "try again later",
        )

    def _serve(self, call: NativeCall, message: bytes) -> None:
        """Hand a whole request to its handler, or hold it while the client leaves its replies unread."""
        if self._held or (self._http2.backlog_bytes > self._limits.write_buffer_bytes and self._crowded()):
            held = self._wire.buffered_bytes + len(message)
            if held > self._limits.max_buffered_bytes:
                self.stats.refused += 1
                error = self._too_much(held)
                call.fail_now(error.status, error.message)
                return
            self._hold(call, len(message))
            self._held.append((call, message))
            return
        try:
            call.handler(call, message)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises ends its call alone
            call.guard(error)

    def _crowded(self) -> bool:
        """Tell whether too many replies are unread; what a stalled stream left unread holds up that stream alone."""
        limit = self._limits.write_buffer_bytes
        unread = self._http2.backlog_bytes
        if unread <= limit:
            return False
        return (
            unread - sum(self._http2.stream_backlog_bytes(call.stream_id) for call in self._blocked) > limit
        )

    def on_stream_closed(self, stream_id: int) -> None:
        """Cancel the call, where it has not ended."""
        call = self._calls.pop(stream_id, None)
        if call is not None:
            self._forget(call)
            call.abandon()

    def on_written(self) -> None:
        """Serve what was held, and tell streams that they can go on."""
        while self._held and not self._crowded():
            call, message = self._held.popleft()
            if call.ended:
                continue
            self._hold(call, 0)
            try:
                call.handler(call, message)
            except Exception as error:  # noqa: BLE001  # whatever a handler raises ends its call alone
                call.guard(error)
        if self._blocked:
            blocked, self._blocked = self._blocked, []
            self._blocked += [call for call in blocked if not call.drained()]

    def on_connection_lost(self) -> None:
        """Cancel every call."""
        self._leave_express()
        self._held.clear()
        self._blocked.clear()
        for call in list(self._calls.values()):
            self._forget(call)
            call.abandon()
        self._wire.forget(self._http2)

    def open_calls(self) -> int:
        """Return the number of calls not yet answered."""
        return len(self._calls) + self._http2.crossings

    def end_all(self, status: Status, message: str) -> None:
        """End every call."""
        self._leave_express()
        for call in list(self._calls.values()):
            call.fail_now(status, message)

    # From calls.

    def answer(
        self, call: NativeCall, headers: Headers, message: bytes, tail: bytes, trailers: Headers
    ) -> bool:
        """Send a whole response."""
        self._calls.pop(call.stream_id, None)
        if call.deadline is not None:
            self._wheel.discard(call, call.tick)
        if call.held_bytes:
            self._hold(call, 0)
        self._flusher.replied = True
        return self._http2.respond(call.stream_id, headers, message, tail, trailers)

    def answer_bare(self, call: NativeCall, headers: Headers) -> bool:
        """Send a response of trailers alone."""
        self._forget(call)
        self._flusher.replied = True
        return self._http2.respond_headers(
            call.stream_id, headers, end_stream=True, refuse_body=not call.half_closed
        )

    def send_headers(self, stream_id: int, headers: Headers) -> bool:
        """Begin a response."""
        self._flusher.replied = True
        return self._http2.respond_headers(stream_id, headers, end_stream=False)

    def send_message(self, stream_id: int, *parts: bytes) -> bool:
        """Continue a response."""
        self._flusher.replied = True
        return self._http2.send_body(stream_id, *parts)

    def end(self, call: NativeCall, trailers: Headers) -> bool:
        """End a response that has begun."""
        self._forget(call)
        self._flusher.replied = True
        return self._http2.send_trailers(call.stream_id, trailers, refuse_body=not call.half_closed)

    def backlog_bytes(self, stream_id: int) -> int:
        """Return what waits on a stream."""
        return self._http2.stream_backlog_bytes(stream_id)

    def congested(self) -> bool:
        """The client leaves too much unread on the whole connection."""
        return self._http2.backlog_bytes > self._limits.write_buffer_bytes

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the client send more."""
        self._http2.acknowledge(stream_id, size)
        self._http2.mark()

    def watch_drain(self, call: NativeStreamCall) -> None:
        """Look at the call after each write."""
        self._blocked.append(call)

    def take_over(
        self, stream_id: int, headers: Headers, timeout_s: float | None, arrived: float
    ) -> NativeCall:
        """Go on with a call of the express path.

        Args:
            stream_id: Its stream.
            headers: Its fields.
            timeout_s: What the client waits for it; None: no deadline.
            arrived: When it came, on the loop's clock.
        """
        assert self._wire.express is not None
        method, handler = self._unary[self._wire.express[0]]
        call = NativeCall(self, stream_id, method, headers, handler)
        call.half_closed = True
        if timeout_s is not None:
            call.deadline = arrived + timeout_s
            call.tick = self._wheel.add(call, call.deadline)
        self._calls[stream_id] = call
        return call

    def _leave_express(self) -> None:
        if self._wire.express is not None:
            self._http2.leave(self._wire.express[1])

    def _forget(self, call: NativeCall) -> None:
        self._calls.pop(call.stream_id, None)
        if call.deadline is not None:
            self._wheel.discard(call, call.tick)
        if call.held_bytes:
            self._hold(call, 0)

    def _refuse_http(self, stream_id: int, status: bytes, end_stream: bool) -> None:
        self.stats.refused += 1
        self._http2.respond_headers(
            stream_id, [(b":status", status)], end_stream=True, refuse_body=not end_stream
        )
