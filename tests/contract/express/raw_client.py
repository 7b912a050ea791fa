"""A client's end of a connection, frame by frame. Load this file by its path."""

import socket
from collections.abc import Sequence
from typing import Any

import ngh2

PATH = b"/inference.GRPCInferenceService/ModelInfer"
CANCEL = 8


class RawClient:
    """An HTTP/2 client that sends what it is told to, and reads only when asked.

    Args:
        port: The server's.
        window_bytes: Of a stream, and of the connection where it is more than HTTP/2's first.
    """

    def __init__(self, port: int, window_bytes: int = 1 << 24) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.engine = ngh2.Connection(ngh2.Role.CLIENT)
        self.engine.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: window_bytes})
        if window_bytes > 65535:
            self.engine.set_local_window_size(window_bytes)
        self.ended: dict[int, int] = {}
        self.fields: dict[int, list[tuple[bytes, bytes]]] = {}
        self.bodies: dict[int, bytes] = {}
        self.is_closed = False
        self.flush()

    def open(self, *extra: tuple[bytes, bytes]) -> int:
        """Begin a request."""
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", PATH),
            (b":authority", b"test"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *extra,
        ]
        return int(self.engine.send_request(fields))

    def send(
        self,
        message: bytes,
        *extra: tuple[bytes, bytes],
        cuts: Sequence[int] = (),
        flush: bool = True,
    ) -> int:
        """Send a request, its bytes cut where asked for, each piece in a write of its own."""
        stream = self.open(*extra)
        body = b"\0" + len(message).to_bytes(4, "big") + message
        begin = 0
        for cut in cuts:
            self.engine.send_data(stream, body[begin:cut])
            begin = cut
            self.flush()
        self.engine.send_data(stream, body[begin:], end_stream=True)
        if flush:
            self.flush()
        return stream

    def reset(self, stream: int, code: int = CANCEL) -> None:
        self.engine.reset_stream(stream, code)
        self.flush()

    def flush(self) -> None:
        if data := self.engine.data_to_send():
            self.socket.sendall(data)

    def read(self) -> None:
        """Take what the server sent; waits for something."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            self.is_closed = True
            return
        self.engine.receive_data(data)
        for event in self.engine.events():
            self._take(event)
        self.flush()

    def _take(self, event: Any) -> None:
        match event:
            case ngh2.ResponseReceived() | ngh2.TrailersReceived():
                self.fields.setdefault(event.stream_id, []).extend(event.headers)
            case ngh2.DataReceived():
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            case ngh2.StreamClosed():
                self.ended[event.stream_id] = event.error_code

    def wait(self, *streams: int) -> None:
        """Read until these have ended, or the server closes."""
        while not self.is_closed and any(stream not in self.ended for stream in streams):
            self.read()

    def status(self, stream: int) -> int | None:
        """The gRPC status of an answer; None where there is none."""
        self.wait(stream)
        found = dict(self.fields.get(stream, [])).get(b"grpc-status")
        return None if found is None else int(found)

    def cut(self) -> None:
        """Close the connection, whatever is on its way."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()
