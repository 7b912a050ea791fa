"""The wire's seam: what a gRPC transport gives to handlers and takes from them, without I/O.

A unary handler is called with a `Call` and the request's bytes, a stream handler with a `StreamCall`. Both return at once
and answer whenever they can, from the same event loop: there is no task and no future for a request. Two transports
implement `Wire`: `anabranch.wire.ngh2_server` (the fast one) and `anabranch.wire.grpcio_server` (grpcio's server).

Replies leave the process together, once in a turn of the event loop, and `before_flush` runs before them: what it makes
durable was durable before any client saw its reply.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final, Protocol

Metadata = Sequence[tuple[str, str | bytes]]
"""Pairs in order; names are lower case, and a value is bytes exactly where its name ends in `-bin`."""

INTERNAL_ERROR_MESSAGE: Final = (
    "internal error: the server's log has the details under this request's x-request-id"
)
"""All a client learns of an exception in a handler."""

MIB: Final = 1 << 20


class Status(IntEnum):
    """The status codes of gRPC.

    Source: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
    """

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one wire accepts from its clients together, so that no client can exhaust the process.

    Args:
        max_message_bytes: Largest message received, after decompression.
        max_buffered_bytes: Bytes of incomplete or waiting requests held for all connections together.
        max_header_bytes: Largest block of request headers, counted as HTTP/2 does (32 bytes a field more).
        max_concurrent_streams: Calls open at once on one connection; a client queues what goes beyond.
        max_connections: Connections open at once; a further one is closed at once.
        max_connections_per_peer: The same, from one address. As many by default: behind a balancer, all come from one.
        write_buffer_bytes: Bytes of unread replies on a connection at which no further request is taken from it; a
            streaming call stops at a quarter.
        stream_window_bytes: Bytes of one stream that a client may send ahead of their handling.
        connection_window_bytes: The same, for all streams of a connection together.
        handshake_timeout_s: Seconds within which a new connection must have sent its HTTP/2 preface.
        keepalive_s: Seconds without a byte after which the client is asked for a sign of life.
        keepalive_timeout_s: Seconds without a byte after that question at which the connection is closed.
        write_stall_s: Seconds without progress at which a connection that does not read its replies is closed.
        idle_s: Seconds without a call after which a connection is closed; None keeps it.
    """

    max_message_bytes: int = 64 * MIB
    max_buffered_bytes: int = 512 * MIB
    max_header_bytes: int = 32 * 1024
    max_concurrent_streams: int = 1024
    max_connections: int = 4096
    max_connections_per_peer: int = 4096
    write_buffer_bytes: int = 4 * MIB
    stream_window_bytes: int = 1 * MIB
    connection_window_bytes: int = 16 * MIB
    handshake_timeout_s: float = 20.0
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    write_stall_s: float = 60.0
    idle_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits that no request could meet."""
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"limits.{name} is {value}: give a positive number")
        for name in ("stream_window_bytes", "connection_window_bytes"):
            value = getattr(self, name)
            if not 65_535 <= value <= 0x7FFF_FFFF:
                raise ValueError(f"limits.{name} is {value}: HTTP/2 allows 65535 to {0x7FFF_FFFF}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The files that make a port a TLS port.

    Args:
        certificate_file: The server's certificate, followed by its chain, as PEM.
        key_file: Its private key, as PEM.
        client_ca_file: Authorities of client certificates, as PEM; with it, a client must present one (mutual TLS).
    """

    certificate_file: Path
    key_file: Path
    client_ca_file: Path | None = None


class Call(Protocol):
    """One unary call. After its end, or once it is cancelled, an answer is ignored."""

    @property
    def method(self) -> str:
        """The full method name, as `/inference.GRPCInferenceService/ModelInfer`."""

    @property
    def metadata(self) -> Metadata:
        """The request's metadata without the fields of HTTP/2 and gRPC themselves."""

    @property
    def deadline(self) -> float | None:
        """The time on the event loop's clock at which the call ends with DEADLINE_EXCEEDED."""

    @property
    def peer(self) -> str:
        """The client's address, as `ipv4:127.0.0.1:50051`."""

    @property
    def peer_identity(self) -> str | None:
        """The client's name by its certificate, see `anabranch.wire.peer_identity`; None without mutual TLS."""

    @property
    def cancelled(self) -> bool:
        """The call ended without an answer of ours: cancelled, disconnected, or past its deadline."""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the call is cancelled, at once where it is already."""

    def reply(
        self, message: bytes, metadata: Metadata = (), trailing: Metadata = (), tail: bytes = b""
    ) -> None:
        """End the call with OK.

        Args:
            message: The serialized response.
            metadata: Initial metadata.
            trailing: Trailing metadata.
            tail: The rest of the response; apart, as a large one is not copied.
        """

    def fail(self, status: Status, message: str, metadata: Metadata = ()) -> None:
        """End the call with an error.

        Args:
            status: Any code but OK.
            message: For the client, in any script.
            metadata: Trailing metadata.
        """


class StreamCall(Call, Protocol):
    """One streaming call: any number of messages in both directions.

    While it is not `writable`, the client's further messages wait in HTTP/2's flow control.
    """

    @property
    def writable(self) -> bool:
        """The client keeps up: less than a quarter of `Limits.write_buffer_bytes` is waiting."""

    def on_message(self, callback: Callable[[bytes], None]) -> None:
        """Call `callback` with each message received; messages wait until it is set."""

    def on_half_close(self, callback: Callable[[], None]) -> None:
        """Call `callback` once after the client's last message."""

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the call becomes writable again."""

    def start(self, metadata: Metadata = ()) -> None:
        """Send the initial metadata now; otherwise none go with the first message."""

    def send(self, message: bytes) -> None:
        """Send one message."""

    def finish(self, status: Status = Status.OK, message: str = "", trailing: Metadata = ()) -> None:
        """End the call after the messages already sent."""

    def pause(self) -> None:
        """Take no further messages: they wait with the client."""

    def resume(self) -> None:
        """Take messages again."""


UnaryHandler = Callable[[Call, bytes], None]
StreamHandler = Callable[[StreamCall], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """What a wire serves, by full method name.

    Args:
        unary: Called with the call and the request's bytes.
        stream: Called with the call when it opens.
        express: By unary method, a table of the compiled module's that may answer requests before its handler is called
            (`anabranch.router.express`). A wire that has no such path calls the handler for each.
    """

    unary: Mapping[str, UnaryHandler] = field(default_factory=dict)
    stream: Mapping[str, StreamHandler] = field(default_factory=dict)
    express: Mapping[str, object] = field(default_factory=dict)

    def __or__(self, other: "Handlers") -> "Handlers":
        """Serve both.

        Raises:
            ValueError: A method is in both.
        """
        twice = (self.unary.keys() | self.stream.keys()) & (other.unary.keys() | other.stream.keys())
        if twice:
            raise ValueError(f"two handlers for {', '.join(sorted(twice))}: give one")
        return Handlers(
            unary={**self.unary, **other.unary},
            stream={**self.stream, **other.stream},
            express={**self.express, **other.express},
        )


@dataclass(slots=True)
class WireStats:
    """Counters of one wire since its start."""

    connections: int = 0
    connections_refused: int = 0
    peers_refused: int = 0
    connections_stalled: int = 0
    protocol_errors: int = 0
    calls: int = 0
    cancelled: int = 0
    deadline_exceeded: int = 0
    refused: int = 0
    handler_errors: int = 0
    flush_errors: int = 0


class Wire(Protocol):
    """A gRPC server on one event loop."""

    @property
    def stats(self) -> WireStats:
        """Counters for metrics."""

    async def start(
        self,
        *,
        host: str,
        port: int,
        handlers: Handlers,
        limits: Limits,
        tls: Tls | None = None,
        before_flush: Callable[[], None] | None = None,
        reuse_port: bool = False,
        listeners: Sequence[socket.socket] | None = None,
    ) -> int:
        """Serve.

        Args:
            host: Name or address to listen on.
            port: 0 takes a free one.
            handlers: What is served.
            limits: What is accepted.
            tls: Absent: plain text.
            before_flush: Called on the loop before the replies of a turn reach their sockets. When it raises, they
                leave all the same; it is counted and logged.
            reuse_port: Share the port with other processes.
            listeners: Bound sockets to listen on instead, which another process may have open too: what waits in them is
                not lost when this one stops and that one goes on. A wire that cannot use them takes `host` and `port`.

        Returns:
            The port.

        Raises:
            OSError: The address cannot be listened on.
        """

    async def drain(self, grace_s: float) -> None:
        """Take no further calls, let those in flight end, then close.

        Args:
            grace_s: Seconds after which calls in flight end with UNAVAILABLE.
        """

    async def close(self) -> None:
        """Close every connection now."""
