"""Requests that break HTTP/2, in the order of RFC 9113 and in the manner of h2spec, against the project's own wire.

A violation ends its stream or its connection, with the code that the RFC names; the server goes on serving.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Server = Any
Violation = Callable[[Any], bytes]

# The codes of RFC 9113, section 7.
PROTOCOL, FLOW, CLOSED, SIZE, COMPRESSION = 1, 3, 5, 6, 9


@pytest.fixture(scope="module")
def wire() -> str:
    return "ngh2"


@pytest.fixture(scope="module")
def server(launch: Callable[..., Any]) -> Iterator[Server]:
    running = launch("ngh2")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def h2(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(Path(__file__).with_name("frames.py"))


def headers(h2: Any, *changes: tuple[bytes, bytes | None], last: bool = True, first: bytes = b"") -> bytes:
    """A call's HEADERS on stream 1, its fields changed."""
    flags = h2.END_HEADERS | (h2.END_STREAM if last else 0)
    return bytes(h2.frame(h2.HEADERS, flags, 1, first + h2.block(h2.request("Echo", *changes))))


# Section, what is sent after a polite beginning, what it ends, and the codes allowed.
CONNECTION: list[tuple[str, Violation, set[int]]] = [
    ("4.2 HEADERS over the frame size", lambda h: h.frame(h.HEADERS, 4, 1, bytes(16_385)), {SIZE}),
    ("4.3 a header block that is none", lambda h: h.frame(h.HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff"), {COMPRESSION}),
    ("4.3 another frame within a header block", lambda h: h.frame(h.HEADERS, 1, 1, h.block(h.request("Echo"))) + h.frame(h.PRIORITY, 0, 1, bytes(5)), {PROTOCOL}),
    ("4.3 another stream within a header block", lambda h: h.frame(h.HEADERS, 1, 1, h.block(h.request("Echo"))) + headers(h), {PROTOCOL}),
    ("5.1 DATA on an idle stream", lambda h: h.frame(h.DATA, 1, 1, b"x"), {PROTOCOL}),
    ("5.1 RST_STREAM on an idle stream", lambda h: h.frame(h.RST_STREAM, 0, 1, bytes(4)), {PROTOCOL}),
    ("5.1 WINDOW_UPDATE on an idle stream", lambda h: h.frame(h.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), {PROTOCOL}),
    ("5.1 CONTINUATION on an idle stream", lambda h: h.frame(h.CONTINUATION, 4, 1), {PROTOCOL}),
    ("5.1 HEADERS after the end of a stream", lambda h: headers(h) + headers(h), {CLOSED, PROTOCOL}),
    ("5.1.1 a stream with an even number", lambda h: h.call(2), {PROTOCOL}),
    ("6.1 DATA on stream 0", lambda h: h.frame(h.DATA, 1, 0, b"x"), {PROTOCOL}),
    ("6.1 more padding than DATA", lambda h: h.call(1, body=None) + h.frame(h.DATA, 9, 1, b"\x06abc"), {PROTOCOL}),
    ("6.2 HEADERS on stream 0", lambda h: h.frame(h.HEADERS, 5, 0, h.block(h.request("Echo"))), {PROTOCOL}),
    ("6.2 more padding than HEADERS", lambda h: h.frame(h.HEADERS, 13, 1, b"\xff" + h.block(h.request("Echo"))), {PROTOCOL}),
    ("6.4 RST_STREAM on stream 0", lambda h: h.frame(h.RST_STREAM, 0, 0, bytes(4)), {PROTOCOL}),
    ("6.4 RST_STREAM of a wrong size", lambda h: h.call(1, body=None) + h.frame(h.RST_STREAM, 0, 1, bytes(3)), {SIZE}),
    ("6.5 SETTINGS on a stream", lambda h: h.frame(h.SETTINGS, 0, 1), {PROTOCOL}),
    ("6.5 an acknowledgement with settings", lambda h: h.frame(h.SETTINGS, 1, 0, h.setting(3, 100)), {SIZE}),
    ("6.5 SETTINGS of a wrong size", lambda h: h.frame(h.SETTINGS, 0, 0, bytes(5)), {SIZE}),
    ("6.5.2 ENABLE_PUSH of 2", lambda h: h.frame(h.SETTINGS, 0, 0, h.setting(2, 2)), {PROTOCOL}),
    ("6.5.2 a window over 2^31 - 1", lambda h: h.frame(h.SETTINGS, 0, 0, h.setting(4, 1 << 31)), {FLOW}),
    ("6.5.2 a frame size below 16384", lambda h: h.frame(h.SETTINGS, 0, 0, h.setting(5, 16_383)), {PROTOCOL}),
    ("6.5.2 a frame size over 2^24 - 1", lambda h: h.frame(h.SETTINGS, 0, 0, h.setting(5, 1 << 24)), {PROTOCOL}),
    ("6.6 PUSH_PROMISE from a client", lambda h: h.call(1, body=None) + h.frame(h.PUSH_PROMISE, 4, 1, b"\0\0\0\2"), {PROTOCOL}),
    ("6.7 PING on a stream", lambda h: h.frame(h.PING, 0, 1, bytes(8)), {PROTOCOL}),
    ("6.7 PING of a wrong size", lambda h: h.frame(h.PING, 0, 0, bytes(7)), {SIZE}),
    ("6.8 GOAWAY on a stream", lambda h: h.frame(h.GOAWAY, 0, 1, bytes(8)), {PROTOCOL}),
    ("6.9 a window of the connection raised by 0", lambda h: h.frame(h.WINDOW_UPDATE, 0, 0, bytes(4)), {PROTOCOL}),
    ("6.9 WINDOW_UPDATE of a wrong size", lambda h: h.frame(h.WINDOW_UPDATE, 0, 0, bytes(3)), {SIZE}),
    ("6.9.1 a window of the connection over 2^31 - 1", lambda h: h.frame(h.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2, {FLOW}),
    ("6.10 CONTINUATION after the end of headers", lambda h: headers(h) + h.frame(h.CONTINUATION, 4, 1), {PROTOCOL}),
    ("6.10 CONTINUATION on stream 0", lambda h: h.frame(h.HEADERS, 0, 1) + h.frame(h.CONTINUATION, 4, 0), {PROTOCOL}),
]  # fmt: skip

STREAM: list[tuple[str, Violation, set[int]]] = [
    ("5.1 DATA after the end of a stream", lambda h: headers(h, (b":path", b"/test.Wire/Hang")) + h.frame(h.DATA, 0, 1, b"x"), {CLOSED}),
    ("6.9 a window of a stream raised by 0", lambda h: h.call(1, body=None) + h.frame(h.WINDOW_UPDATE, 0, 1, bytes(4)), {PROTOCOL}),
    ("6.9.1 a window of a stream over 2^31 - 1", lambda h: h.call(1, body=None) + h.frame(h.WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff") * 2, {FLOW}),
    ("8.2.1 a name in upper case", lambda h: headers(h, (b"X-Key", b"1")), {PROTOCOL}),
    ("8.2.1 a line break in a value", lambda h: headers(h, (b"x-key", b"a\r\nb")), {PROTOCOL}),
    ("8.2.2 a header of the connection", lambda h: headers(h, (b"connection", b"keep-alive")), {PROTOCOL}),
    ("8.2.2 TE of anything but trailers", lambda h: headers(h, (b"te", b"gzip")), {PROTOCOL}),
    ("8.3 an unknown pseudo-header", lambda h: headers(h, first=h.literal(b":wire", b"1")), {PROTOCOL}),
    ("8.3 a pseudo-header of answers", lambda h: headers(h, first=h.literal(b":status", b"200")), {PROTOCOL}),
    ("8.3 a pseudo-header after others", lambda h: headers(h, first=h.literal(b"x-key", b"1")), {PROTOCOL}),
    ("8.3.1 no method", lambda h: headers(h, (b":method", None)), {PROTOCOL}),
    ("8.3.1 no scheme", lambda h: headers(h, (b":scheme", None)), {PROTOCOL}),
    ("8.3.1 no path", lambda h: headers(h, (b":path", None)), {PROTOCOL}),
    ("8.3.1 an empty path", lambda h: headers(h, (b":path", b"")), {PROTOCOL}),
    ("8.3.1 two paths", lambda h: headers(h, first=h.literal(b":path", b"/test.Wire/Echo")), {PROTOCOL}),
    ("8.1.1 a content-length that is not met", lambda h: headers(h, (b"content-length", b"9"), last=False) + h.frame(h.DATA, 1, 1, b"\0\0\0\0\0"), {PROTOCOL}),
    ("8.1 trailers that do not end the stream", lambda h: h.call(1, body=None) + h.frame(h.HEADERS, 4, 1, h.literal(b"x-key", b"1")), {PROTOCOL}),
    ("8.1 a pseudo-header in trailers", lambda h: h.call(1, body=None) + h.frame(h.HEADERS, 5, 1, h.literal(b":path", b"/")), {PROTOCOL}),
]  # fmt: skip

HARMLESS: list[tuple[str, Violation, str]] = [
    # libnghttp2 passes these two over, where the RFC ends the connection: a stream that it may have reset itself, and the
    # priorities of RFC 7540, which it does not follow.
    ("5.1.1 a stream below an earlier one", lambda h: h.call(5) + h.call(1), "ignored"),
    ("6.3 PRIORITY on stream 0", lambda h: h.frame(h.PRIORITY, 0, 0, bytes(5)), "ignored"),
    ("4.1 a frame of an unknown kind", lambda h: h.frame(0x42, 0xFF, 0, b"what is it?"), "ignored"),
    ("5.1 PRIORITY on an idle stream", lambda h: h.frame(h.PRIORITY, 0, 1, bytes([0, 0, 0, 3, 16])), "ignored"),
    ("6.5.2 an unknown setting", lambda h: h.frame(h.SETTINGS, 0, 0, h.setting(0x4242, 7)), "ignored"),
    ("6.2 padded HEADERS", lambda h: h.frame(h.HEADERS, 12, 1, b"\x03" + h.block(h.request("Echo")) + bytes(3)) + h.frame(h.DATA, 1, 1, bytes(5)), "answered"),
    ("6.10 headers in many pieces", lambda h: h.frame(h.HEADERS, 0, 1, h.block(h.request("Echo"))[:9]) + h.frame(h.CONTINUATION, 0, 1) + h.frame(h.CONTINUATION, 4, 1, h.block(h.request("Echo"))[9:]) + h.frame(h.DATA, 1, 1, bytes(5)), "answered"),
]  # fmt: skip


def judged(h2: Any, server: Server, data: bytes) -> tuple[str, int]:
    wild = h2.Wild(server.port)
    assert wild.send(data)
    found: tuple[str, int] = wild.verdict()
    wild.close()
    assert server.call("Echo", b"after") == b"after"
    return found


@pytest.mark.parametrize(
    ("violation", "codes"), [(v, c) for _, v, c in CONNECTION], ids=[n for n, _, _ in CONNECTION]
)
def test_a_violation_of_the_connection_ends_it_with_its_code(
    server: Server, h2: ModuleType, violation: Violation, codes: set[int]
) -> None:
    what, code = judged(h2, server, violation(h2))
    assert what == "connection"
    assert code in codes


@pytest.mark.parametrize(
    ("violation", "codes"), [(v, c) for _, v, c in STREAM], ids=[n for n, _, _ in STREAM]
)
def test_a_violation_of_a_stream_ends_it_with_its_code(
    server: Server, h2: ModuleType, violation: Violation, codes: set[int]
) -> None:
    what, code = judged(h2, server, violation(h2))
    # RFC 9113, section 5.4.2: an endpoint may treat any error of a stream as one of the connection.
    assert what in ("stream", "connection")
    assert code in codes


@pytest.mark.parametrize(
    ("frames", "outcome"), [(v, o) for _, v, o in HARMLESS], ids=[n for n, _, _ in HARMLESS]
)
def test_what_is_unusual_but_allowed_is_taken(
    server: Server, h2: ModuleType, frames: Violation, outcome: str
) -> None:
    what, _ = judged(h2, server, frames(h2))
    assert what == outcome or (outcome == "answered" and what == "ignored")


@pytest.mark.parametrize(
    "preface", [b"GET / HTTP/1.1\r\n\r\n" * 2, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + bytes(9)]
)
def test_what_is_no_preface_is_hung_up_on(server: Server, h2: ModuleType, preface: bytes) -> None:
    wild = h2.Wild(server.port, polite=False)
    wild.send(preface)
    assert wild.verdict()[0] == "connection"
    assert server.call("Echo", b"after") == b"after"


def test_a_first_frame_that_is_no_settings_is_a_violation(server: Server, h2: ModuleType) -> None:
    wild = h2.Wild(server.port, polite=False)
    wild.send(h2.PREFACE + h2.call(1))
    assert wild.verdict() == ("connection", PROTOCOL)
