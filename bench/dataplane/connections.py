"""The generator's connections: gRPC on HTTP/2 and JSON on HTTP/1.1, as little work a request as there can be."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import ngh2

_WRITE_BYTES: Final = 64 * 1024
_SAMPLED: Final = 64
_VARIANT: Final = b"x-invoked-variant"

Answered = Callable[[float, str, str], None]
"""Takes the time that the request carries, the failure (empty for a success), and the variant that answered."""


class Connection(Protocol):
    """One connection of the generator."""

    def send(self, stamp: float, unit: bytes) -> None:
        """Send a request; `stamp` comes back with its answer."""
        ...

    def flush(self) -> None:
        """Write what was sent."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class GrpcConnection(asyncio.Protocol):
    """Unary calls over HTTP/2.

    Args:
        headers: Of every request, but for the unit.
        message: The serialized request.
        needle: Bytes that an answer must contain.
        unit_header: Name of the header that carries the unit; empty for none.
        on_answer: Called for each answer, before the flush that follows.
    """

    def __init__(
        self,
        headers: list[tuple[bytes, bytes]],
        message: bytes,
        needle: bytes,
        unit_header: bytes,
        on_answer: Answered,
    ) -> None:
        self._headers = headers
        self._body = b"\0" + len(message).to_bytes(4, "big") + message
        self._needle = needle
        self._unit_header = unit_header
        self._on_answer = on_answer
        self._engine = ngh2.Connection(ngh2.Role.CLIENT, ngh2.Configuration(peer_max_concurrent_streams=1024))
        self._transport: Any = None
        self._open: dict[int, list[Any]] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._engine.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: 1 << 24})
        self._engine.set_local_window_size(1 << 26)
        self.flush()

    def send(self, stamp: float, unit: bytes) -> None:
        headers = [*self._headers, (self._unit_header, unit)] if self._unit_header else self._headers
        stream_id = self._engine.send_request(headers)
        self._engine.send_data(stream_id, self._body, end_stream=True)
        # Time, bytes received, grpc-status, variant, and the pieces of an answer that is looked into.
        sampled: list[bytes] | None = [] if self._needle and stream_id % (2 * _SAMPLED) == 1 else None
        self._open[stream_id] = [stamp, 0, None, "", sampled]

    def data_received(self, data: bytes) -> None:
        self._engine.receive_data(data)
        opened = self._open
        for event in self._engine.events():
            if isinstance(event, ngh2.DataReceived):
                call = opened[event.stream_id]
                call[1] += len(event.data)
                if call[4] is not None:
                    call[4].append(event.data)
            elif isinstance(event, ngh2.TrailersReceived):
                opened[event.stream_id][2] = _find(event.headers, b"grpc-status")
            elif isinstance(event, ngh2.ResponseReceived):
                call = opened[event.stream_id]
                call[3] = _find(event.headers, _VARIANT) or ""
                if event.end_stream:
                    call[2] = _find(event.headers, b"grpc-status")
            elif isinstance(event, ngh2.StreamClosed):
                self._closed(opened.pop(event.stream_id), event.error_code)
        self.flush()

    def _closed(self, call: list[Any], error_code: int) -> None:
        stamp, size, status, variant, pieces = call
        if error_code or status != "0":
            failure = f"reset {error_code}" if error_code else f"grpc-status {status}"
        elif size <= 5:
            failure = "empty answer"
        elif pieces is not None and self._needle not in b"".join(pieces):
            failure = "other bytes than expected"
        else:
            failure = ""
        self._on_answer(stamp, failure, variant)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the reason changes nothing
        for call in self._open.values():
            self._on_answer(call[0], "connection lost", "")
        self._open.clear()

    def flush(self) -> None:
        # In pieces, as the engine's buffer grows slowly.
        while data := self._engine.data_to_send(_WRITE_BYTES):
            self._transport.write(data)

    def close(self) -> None:
        self._open.clear()
        self._transport.close()


class JsonConnection(asyncio.Protocol):
    """POST requests over HTTP/1.1, one at a time; what is sent meanwhile waits here, and its latency goes on.

    Args:
        path: Where to post.
        body: The JSON text.
        on_answer: Called for each answer.
    """

    def __init__(self, path: str, body: bytes, on_answer: Answered) -> None:
        head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._on_answer = on_answer
        self._transport: Any = None
        self._waiting: list[float] = []
        self._received = b""
        self._is_busy = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, stamp: float, unit: bytes) -> None:  # noqa: ARG002  # these servers know no units
        self._waiting.append(stamp)

    def flush(self) -> None:
        if self._waiting and not self._is_busy:
            self._is_busy = True
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (answer := _take_answer(self._received)) is not None:
            status, size, end = answer
            self._received = self._received[end:]
            self._is_busy = False
            failure = "" if status == "200" and size else f"http {status}"
            self._on_answer(self._waiting.pop(0), failure, "")
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the reason changes nothing
        for stamp in self._waiting:
            self._on_answer(stamp, "connection lost", "")
        self._waiting.clear()

    def close(self) -> None:
        self._waiting.clear()
        self._transport.close()


def _find(headers: Any, name: bytes) -> str | None:
    for key, value in headers:
        if key == name:
            return bytes(value).decode()
    return None


def _take_answer(received: bytes) -> tuple[str, int, int] | None:
    """The status, body size and total length of the first complete answer, if there is one.

    Raises:
        ValueError: If it has no content-length: these servers send one.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = received[:end].lower()
    at = head.find(b"content-length:")
    if at < 0:
        raise ValueError(f"an answer without content-length: {head!r}")
    size = int(head[at + 15 :].partition(b"\r\n")[0])
    total = end + 4 + size
    return (head[9:12].decode(), size, total) if len(received) >= total else None
