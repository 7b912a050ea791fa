"""The client's seam: what a gRPC channel gives to its callers and takes from them, without I/O.

A call is a pair of callbacks: there is no task and no future for a request. `unary` and `stream` return at once and never
call back themselves; every callback comes later, from the same event loop. Requests leave together, once in a turn of the
loop. `anabranch.wire.client_channel` implements `Channel`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from anabranch.wire.client_framing import find_text, read_metadata
from anabranch.wire.grpc_framing import Headers
from anabranch.wire.seam import MIB, Metadata, Status

_PLAIN: Final = ((b":status", b"200"), (b"content-type", b"application/grpc"))


class Origin(StrEnum):
    """Who said how a call ended."""

    SERVER = "server"
    """The server answered, with OK or an error."""
    CLIENT = "client"
    """No answer came: not connected, connection lost, deadline passed, or an answer that is no gRPC."""


@dataclass(slots=True, eq=False)
class Reply:
    """How a call ended. Not to be changed; a frozen class would cost a request half a microsecond.

    Args:
        status: The code.
        text: The error's message, decoded; empty with OK.
        body: The serialized response; empty for an error and for a streaming call.
        headers: The response's header fields as they arrived.
        trailers: Its trailer fields as they arrived.
        origin: Who says so.
    """

    status: Status
    text: str = ""
    body: bytes = b""
    headers: Headers = ()
    trailers: Headers = ()
    origin: Origin = Origin.SERVER

    @property
    def metadata(self) -> Metadata:
        """The initial metadata; a `-bin` value that is not base64 is left out."""
        return read_metadata(self.headers)

    @property
    def trailing(self) -> Metadata:
        """The trailing metadata, likewise."""
        return read_metadata(self.trailers)

    def find(self, name: bytes) -> str | None:
        """Return a field's first text value, in the initial metadata or else the trailing, without decoding others."""
        if self.headers != _PLAIN:
            found = find_text(self.headers, name)
            if found is not None:
                return found
        # Trailers of one field have the status alone.
        return find_text(self.trailers, name) if len(self.trailers) > 1 else None


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address.

    Args:
        host: Name or address.
        port: 1 to 65535.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        if not self.host or not 0 < self.port < 65_536:
            raise ValueError(
                f"target is {self.host!r} port {self.port}: give a host and a port of 1 to 65535"
            )

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read `host:port` or `[address]:port`.

        Raises:
            ValueError: It is something else.
        """
        host, separator, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not separator or not port.isdecimal() or "/" in host:
            raise ValueError(f"target is {text!r}: give HOST:PORT, without a scheme or a path")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """What makes a channel speak TLS.

    Args:
        ca_file: Authorities that the server's certificate must come from, as PEM; None takes the system's.
        certificate_file: The client's own certificate, followed by its chain, as PEM, for mutual TLS.
        key_file: Its private key, as PEM.
        server_name: The name that the server's certificate must have; None takes the target's host.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLimits:
    """How one channel uses its server, and what it accepts from it.

    Args:
        min_connections: Connections that calls are spread over from the start; more than one reaches more than one
            worker process behind a shared port.
        max_connections: Connections open at once; those above the minimum open when all others are full.
        max_concurrent_streams: Calls open at once on one connection, if the server allows as many.
        max_pending: Calls that wait for a connection or for room on one; a further one ends with UNAVAILABLE.
        max_message_bytes: Largest message received, after decompression.
        max_buffered_bytes: Bytes of requests in flight and of incomplete replies held together; a call beyond ends
            with UNAVAILABLE, a reply beyond with RESOURCE_EXHAUSTED.
        max_header_bytes: Largest block of response headers, counted as HTTP/2 does (32 bytes a field more).
        write_buffer_bytes: Unsent bytes of a connection at which a streaming call is not writable; a single call
            stops at a quarter.
        stream_window_bytes: Bytes of one call that the server may send ahead of their handling.
        connection_window_bytes: The same, for all calls of a connection together.
        connect_timeout_s: Seconds for a connection to be ready: resolved, connected, and greeted by the server.
        backoff_first_s: Seconds without a further attempt after a failed one; calls end with UNAVAILABLE at once.
        backoff_max_s: The most that doubling makes of it.
        keepalive_s: Seconds without a byte after which a server with open calls is asked for a sign of life. gRPC's
            own servers take less than 300 for abuse.
        keepalive_timeout_s: Seconds without a byte after that question, or without a receipt for what was sent, at
            which the connection is given up.
        write_stall_s: Seconds without progress at which a connection is given up whose server does not read.
    """

    min_connections: int = 1
    max_connections: int = 8
    max_concurrent_streams: int = 1024
    max_pending: int = 1024
    max_message_bytes: int = 64 * MIB
    max_buffered_bytes: int = 512 * MIB
    max_header_bytes: int = 32 * 1024
    write_buffer_bytes: int = 4 * MIB
    stream_window_bytes: int = 1 * MIB
    connection_window_bytes: int = 16 * MIB
    connect_timeout_s: float = 5.0
    backoff_first_s: float = 0.25
    backoff_max_s: float = 15.0
    keepalive_s: float = 300.0
    keepalive_timeout_s: float = 20.0
    write_stall_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse limits that no call could meet."""
        for name in self.__slots__:
            value = getattr(self, name)
            if value <= 0:
                raise ValueError(f"limits.{name} is {value}: give a positive number")
        if self.min_connections > self.max_connections:
            raise ValueError(
                f"limits.min_connections is {self.min_connections}: give at most max_connections, {self.max_connections}"
            )
        for name in ("stream_window_bytes", "connection_window_bytes"):
            value = getattr(self, name)
            if not 65_535 <= value <= 0x7FFF_FFFF:
                raise ValueError(f"limits.{name} is {value}: HTTP/2 allows 65535 to {0x7FFF_FFFF}")


@dataclass(slots=True)
class ChannelStats:
    """Counters of one channel since it was made."""

    calls: int = 0
    retried: int = 0
    """Calls sent again, as the server had not looked at them."""
    refused: int = 0
    """Calls that ended at once, for want of a connection or of room."""
    deadline_exceeded: int = 0
    cancelled: int = 0
    connections: int = 0
    connections_failed: int = 0
    connections_lost: int = 0
    """Connections that ended while calls were open on them."""


class ClientCall(Protocol):
    """One unary call."""

    def cancel(self) -> None:
        """End the call and tell the server; its callback is not called any more."""


class ClientStreamCall(ClientCall, Protocol):
    """One streaming call: any number of messages in both directions."""

    @property
    def writable(self) -> bool:
        """The server keeps up: little is waiting to be sent. Sending all the same is possible, and held in memory."""

    def send(self, message: bytes) -> None:
        """Send one message; ignored once the call has ended."""

    def half_close(self) -> None:
        """Tell the server that no further messages come."""

    def pause(self) -> None:
        """Take no further messages: they wait with the server."""

    def resume(self) -> None:
        """Take messages again."""


Done = Callable[[Reply], None]


class Channel(Protocol):
    """Connections to one server, opened when calls need them. Used from the event loop it was made in."""

    @property
    def stats(self) -> ChannelStats:
        """Counters for metrics."""

    @property
    def open_calls(self) -> int:
        """Calls that have not ended, those that wait for a connection included."""

    @property
    def writable(self) -> bool:
        """A further call would be sent at once: no call waits, and half of `max_buffered_bytes` is free."""

    def unary(
        self,
        method: str,
        message: bytes,
        *,
        done: Done,
        tail: bytes = b"",
        metadata: Metadata = (),
        deadline: float | None = None,
    ) -> ClientCall:
        """Begin a call.

        A call that the server has certainly not looked at, by its GOAWAY or REFUSED_STREAM, is sent once more.

        Args:
            method: The full method name, as `/inference.GRPCInferenceService/ModelInfer`.
            message: The serialized request.
            done: Called exactly once with how the call ended, unless it is cancelled.
            tail: The rest of the request, where that spares a copy of a large one.
            metadata: Sent with the request.
            deadline: The time on the event loop's clock at which the call ends with DEADLINE_EXCEEDED, a few
                milliseconds late at most; the server is told the rest of the time. Finite; None: no deadline.

        Raises:
            ValueError: The metadata cannot be sent.
        """

    def stream(
        self,
        method: str,
        *,
        on_message: Callable[[bytes], None],
        on_end: Done,
        on_start: Callable[[Metadata], None] | None = None,
        on_drain: Callable[[], None] | None = None,
        metadata: Metadata = (),
        deadline: float | None = None,
    ) -> ClientStreamCall:
        """Begin a streaming call.

        Args:
            method: The full method name.
            on_message: Called with each message received.
            on_end: Called exactly once with how the call ended, unless it is cancelled.
            on_start: Called with the initial metadata, before any message.
            on_drain: Called whenever the call becomes writable again.
            metadata: As for `unary`.
            deadline: As for `unary`.

        Raises:
            ValueError: The metadata cannot be sent.
        """

    async def ready(self, timeout_s: float) -> None:
        """Wait for the first `min_connections`, attempt after attempt.

        Raises:
            TimeoutError: There was none in time; says why.
        """

    async def close(self) -> None:
        """Close every connection; calls in flight end with CANCELLED."""
