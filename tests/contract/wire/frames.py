"""HTTP/2 frames written by hand, and a connection that sends them whatever the rules say. Load this file by its path.

Source: RFC 9113, section 6 (frames), section 7 (error codes); RFC 7541, section 6 (header fields).
"""

import socket
import struct
from collections.abc import Iterator, Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, COMPRESSION_ERROR = 5, 6, 7, 9
ENHANCE_YOUR_CALM = 11

Fields = Sequence[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame, whose length is true."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def setting(identifier: int, value: int) -> bytes:
    return struct.pack(">HI", identifier, value)


def _integer(value: int, bits: int, first: int = 0) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out = bytearray([first | most])
    value -= most
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def literal(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    """A header field in plain bytes; `indexed` puts it into the dynamic table."""
    first = b"\x40" if indexed else b"\x00"
    return first + _integer(len(name), 7) + name + _integer(len(value), 7) + value


def block(fields: Fields) -> bytes:
    """A header block without compression."""
    return b"".join(literal(name, value) for name, value in fields)


def request(method: str, *changes: tuple[bytes, bytes | None]) -> list[tuple[bytes, bytes]]:
    """The fields of a call; a change replaces one, adds one at the end, or with None leaves one out."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": f"/test.Wire/{method}".encode(),
        b":authority": b"test",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    for name, value in changes:
        if value is None:
            del fields[name]
        else:
            fields[name] = value
    return list(fields.items())


def call(stream_id: int, method: str = "Echo", body: bytes | None = b"\0\0\0\0\5hello") -> bytes:
    """A whole call; without a body, one that stays open."""
    head = block(request(method))
    if body is None:
        return frame(HEADERS, END_HEADERS, stream_id, head)
    return frame(HEADERS, END_HEADERS, stream_id, head) + frame(DATA, END_STREAM, stream_id, body)


class Wild:
    """A connection that sends what it is told to.

    Args:
        port: The server's.
        polite: Begin as the protocol wants: preface, settings, their acknowledgement.
    """

    def __init__(self, port: int, *, polite: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._received = b""
        if polite:
            self.send(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))

    def send(self, data: bytes) -> bool:
        """Send; False when the server has closed."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield what the server sends as kind, flags, stream and payload, until it closes."""
        while True:
            while len(self._received) >= 9:
                size = int.from_bytes(self._received[:3], "big")
                if len(self._received) < 9 + size:
                    break
                head, payload = self._received[:9], self._received[9 : 9 + size]
                self._received = self._received[9 + size :]
                yield head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFF_FFFF, payload
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                return
            if not data:
                return
            self._received += data

    def verdict(self, stream_id: int = 1) -> tuple[str, int]:
        """What became of what was sent, judged by the server's next words.

        Returns:
            `("connection", code)` for a GOAWAY or a close without one (code -1), `("stream", code)` for a reset of the
            stream, `("answered", 0)` for an answer on it, and `("ignored", 0)` when two PINGs are answered before any:
            an answer to the first may overtake what was to be said before it.
        """
        self.send(frame(PING, 0, 0, b"are you?"))
        pings = 1
        for kind, flags, on, payload in self.frames():
            if kind == GOAWAY:
                return "connection", int.from_bytes(payload[4:8], "big")
            if kind == RST_STREAM and on == stream_id:
                return "stream", int.from_bytes(payload, "big")
            if kind == HEADERS and on == stream_id:
                return "answered", 0
            if kind == PING and flags & ACK:
                if pings == 2:
                    return "ignored", 0
                pings = 2
                self.send(frame(PING, 0, 0, b"are you?"))
        return "connection", -1

    def close(self) -> None:
        self.socket.close()
