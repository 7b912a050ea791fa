"""The HTTP/2 engine of one connection: compiled where that was possible, else the same on the `ngh2` package.

Only the `http2` modules use it. Events are tuples that begin with their `Event`; a unary call that arrives whole is one event
of the compiled engine, `CALL` or `ANSWER`, and what is unusual comes frame by frame, as it always does from the other.
`anabranch.proto.native` says which one runs.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final, Protocol

import ngh2

from anabranch.proto.native import native
from anabranch.wire.grpc_framing import PREFIX, Headers

EngineError = ngh2.NGH2Error
"""An engine refuses a call: the stream is gone, or the connection has failed or is ending."""


class Event(IntEnum):
    """What happened; the rest of the event's tuple in brackets."""

    CALL = 0
    """A whole unary request: stream, value of the method's path, fields, `grpc-timeout` or None, message."""
    ANSWER = 1
    """A whole response to `request`: stream, fields, message, trailers; the stream is over."""
    REQUEST = 2
    """A request begins: stream, fields, whether it ends here."""
    RESPONSE = 3
    """A response begins: stream, fields, whether it ends here."""
    DATA = 4
    """Bytes of a body, to be acknowledged: stream, bytes, whether it ends here."""
    TRAILERS = 5
    """The other side ended: stream, fields."""
    RESET = 6
    """The other side gave a stream up: stream, code; CLOSED follows."""
    CLOSED = 7
    """A stream is over: stream, code. Not reported once `respond` has answered it."""
    SETTINGS = 8
    """The other side's settings: streams it allows at once."""
    PONG = 9
    """A ping came back: its eight bytes."""
    GOAWAY = 10
    """No further streams are taken: debug data."""
    END = 11
    """HTTP/2 has ended: code."""
    HANDOVER = 12
    """A request of the express path needs Python: what sees to it, and its arguments."""


class Engine(Protocol):
    """The protocol state of one connection. What cannot be done raises EngineError."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of bodies that are not yet sent."""

    @property
    def wants_write(self) -> bool:
        """`data_to_send` would give something."""

    @property
    def crossings(self) -> int:
        """Requests on the express path that the connection has a side of; Python does not know of their streams."""

    def join(self, owner: object, *served: object) -> None:
        """Take part in the express path, where the engine has one.

        Args:
            owner: The connection; its `stir` is called when something is to be written.
            served: For a server: what its requests are looked up in, the method that they are requests of, and the
                client's name by its certificate, empty where it has none.
        """

    def initiate(self, settings: Mapping[int, int], window_bytes: int, /) -> None:
        """Announce settings, and the connection's window."""

    def receive(self, buffer: memoryview, size: int, /) -> None:
        """Take the first bytes of a buffer."""

    def events(self) -> Sequence[tuple[Any, ...]]:
        """Return what happened since the last time."""

    def data_to_send(self, limit: int, /) -> bytes:
        """Return about `limit` bytes at most of what is to be written."""

    def respond(
        self, stream_id: int, headers: Headers, message: bytes, tail: bytes, trailers: Headers, /
    ) -> None:
        """Queue a whole response; its message is `message` and `tail` together."""

    def send_response(self, stream_id: int, headers: Headers, end_stream: bool, /) -> None:
        """Queue a response's headers."""

    def request(self, headers: Headers, message: bytes, tail: bytes, /) -> int:
        """Queue a whole request, as `respond` does; return its stream."""

    def send_request(self, headers: Headers, /) -> int:
        """Queue a request's headers; return its stream."""

    def send_data(self, stream_id: int, data: bytes, /) -> None:
        """Queue bytes of a body."""

    def send_trailers(self, stream_id: int, trailers: Headers, /) -> None:
        """Queue the end of a response."""

    def end_stream(self, stream_id: int, /) -> None:
        """Queue the end of a body."""

    def reset_stream(self, stream_id: int, code: int, /) -> None:
        """Give a stream up."""

    def acknowledge(self, stream_id: int, size: int, /) -> None:
        """Let the other side send `size` bytes more."""

    def ping(self, opaque: bytes, /) -> None:
        """Queue a ping of eight bytes."""

    def send_goaway(self, code: int, /) -> None:
        """Refuse streams after those that were seen."""

    def send_shutdown_notice(self) -> None:
        """Ask for no further streams."""

    def waiting_on(self, stream_id: int, /) -> int:
        """Bytes of one stream's body that are not yet sent."""


class PlainEngine:
    """An engine on the `ngh2` package, which never reports CALL or ANSWER; see `Engine`.

    Args:
        unary: A server's methods, unused; None for a client.
        max_header_bytes: Beyond this the connection is cut.
        max_message_bytes: Unused.
    """

    __slots__ = ("_connection",)

    def __init__(
        self,
        unary: Mapping[bytes, object] | None,
        *,
        max_header_bytes: int,
        max_message_bytes: int,  # noqa: ARG002  # the same call makes both engines
    ) -> None:
        self._connection = ngh2.Connection(
            ngh2.Role.CLIENT if unary is None else ngh2.Role.SERVER,
            ngh2.Configuration(
                auto_window_update=False,
                max_inbound_header_list_size=max_header_bytes,
                max_send_header_block_length=65_536,
            ),
        )

    @property
    def waiting_bytes(self) -> int:
        """See `Engine`, as for all that follow."""
        return int(self._connection.queued_body_size())

    @property
    def wants_write(self) -> bool:
        """See `Engine`."""
        return bool(self._connection.want_write)

    @property
    def crossings(self) -> int:
        """None: there is no such path here."""
        return 0

    def join(self, owner: object, *served: object) -> None:
        """See `Engine`: there is no such path here."""

    def initiate(self, settings: Mapping[int, int], window_bytes: int, /) -> None:
        """See `Engine`."""
        self._connection.initiate_connection(settings)
        self._connection.set_local_window_size(window_bytes)

    def receive(self, buffer: memoryview, size: int, /) -> None:
        """See `Engine`."""
        self._connection.receive_data(buffer[:size])

    def events(self) -> Sequence[tuple[Any, ...]]:
        """See `Engine`."""
        found: list[tuple[Any, ...]] = []
        event: Any  # its class says which attributes it has
        for event in self._connection.events():
            match event:
                case ngh2.DataReceived():
                    found.append((Event.DATA, event.stream_id, event.data, event.end_stream))
                case ngh2.RequestReceived():
                    found.append((Event.REQUEST, event.stream_id, event.headers, event.end_stream))
                case ngh2.ResponseReceived():
                    found.append((Event.RESPONSE, event.stream_id, event.headers, event.end_stream))
                case ngh2.TrailersReceived():
                    found.append((Event.TRAILERS, event.stream_id, event.headers))
                case ngh2.StreamClosed():
                    found.append((Event.CLOSED, event.stream_id, event.error_code))
                case ngh2.StreamReset():
                    found.append((Event.RESET, event.stream_id, event.error_code))
                case ngh2.SettingsReceived():
                    allowed = self._connection.remote_settings[int(ngh2.Setting.MAX_CONCURRENT_STREAMS)]
                    found.append((Event.SETTINGS, allowed))
                case ngh2.PingAcknowledged():
                    found.append((Event.PONG, event.opaque_data))
                case ngh2.GoAwayReceived():
                    found.append((Event.GOAWAY, event.debug_data))
                case ngh2.ConnectionClosed():
                    found.append((Event.END, event.error_code))
        return found

    def data_to_send(self, limit: int, /) -> bytes:
        """See `Engine`."""
        return bytes(self._connection.data_to_send(limit))

    def respond(
        self, stream_id: int, headers: Headers, message: bytes, tail: bytes, trailers: Headers, /
    ) -> None:
        """See `Engine`."""
        self._connection.send_response(stream_id, headers)
        for part in _framed(message, tail):
            self._connection.send_data(stream_id, part)
        self._connection.send_trailers(stream_id, trailers)

    def send_response(self, stream_id: int, headers: Headers, end_stream: bool, /) -> None:
        """See `Engine`."""
        self._connection.send_response(stream_id, headers, end_stream=end_stream)

    def request(self, headers: Headers, message: bytes, tail: bytes, /) -> int:
        """See `Engine`."""
        stream_id = self.send_request(headers)
        for part in _framed(message, tail):
            self._connection.send_data(stream_id, part)
        self._connection.end_stream(stream_id)
        return stream_id

    def send_request(self, headers: Headers, /) -> int:
        """See `Engine`."""
        return int(self._connection.send_request(headers))

    def send_data(self, stream_id: int, data: bytes, /) -> None:
        """See `Engine`."""
        self._connection.send_data(stream_id, data)

    def send_trailers(self, stream_id: int, trailers: Headers, /) -> None:
        """See `Engine`."""
        self._connection.send_trailers(stream_id, trailers)

    def end_stream(self, stream_id: int, /) -> None:
        """See `Engine`."""
        self._connection.end_stream(stream_id)

    def reset_stream(self, stream_id: int, code: int, /) -> None:
        """See `Engine`."""
        self._connection.reset_stream(stream_id, code)

    def acknowledge(self, stream_id: int, size: int, /) -> None:
        """See `Engine`."""
        try:
            self._connection.acknowledge_received_data(size, stream_id)
        except ValueError as error:
            # What the connection has dropped with its end.
            raise EngineError(str(error)) from error

    def ping(self, opaque: bytes, /) -> None:
        """See `Engine`."""
        self._connection.ping(opaque)

    def send_goaway(self, code: int, /) -> None:
        """See `Engine`."""
        self._connection.send_goaway(code)

    def send_shutdown_notice(self) -> None:
        """See `Engine`."""
        self._connection.send_shutdown_notice()

    def waiting_on(self, stream_id: int, /) -> int:
        """See `Engine`."""
        return int(self._connection.queued_body_size(stream_id))


# Below this size, copying a message behind its prefix costs less than queueing the two apart.
_COPIED_BYTES: Final = 16 * 1024


def _framed(message: bytes, tail: bytes) -> tuple[bytes, ...]:
    size = len(message) + len(tail)
    prefix = PREFIX.pack(0, size)
    return (prefix + message + tail,) if size <= _COPIED_BYTES else (prefix, message, tail)


def new_engine(
    unary: Mapping[bytes, object] | None, *, max_header_bytes: int, max_message_bytes: int
) -> Engine:
    """Make the engine of a connection.

    Args:
        unary: What a server answers, by path, looked up anew for every request; None for a client.
        max_header_bytes: Bytes of one block of fields, 32 a field more; beyond, the connection is cut.
        max_message_bytes: Larger messages are not put together.
    """
    compiled = native()
    new: Any = PlainEngine if compiled is None else compiled.NativeEngine
    engine: Engine = new(unary, max_header_bytes=max_header_bytes, max_message_bytes=max_message_bytes)
    return engine
