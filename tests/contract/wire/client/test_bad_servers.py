"""Servers that are none, or bad ones: the client ends its calls, says why, and goes on."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import ngh2
import pytest
import uvloop

from anabranch.wire.client import Origin, Reply
from anabranch.wire.seam import Status

Calling = Callable[..., Any]
Faking = Callable[..., Any]

_GRPC = [(b":status", b"200"), (b"content-type", b"application/grpc")]
_FRAME = b"\0\0\0\0\2hi"


def _reply(
    faking: Faking, calling: Calling, script: Callable[[Any, Any], None], **limits: Any
) -> tuple[Reply, Any]:
    """Call a server that does what a script says; return how that ended, and the channel's counters."""

    async def run() -> tuple[Reply, Any]:
        async with faking(script) as port, calling(port, **limits) as client:
            return await client.call("Echo", b"hello"), client.channel.stats

    return uvloop.run(run())


def _once_asked(answer: Callable[[Any, int], None]) -> Callable[[Any, Any], None]:
    def script(connection: Any, event: Any) -> None:
        if isinstance(event, ngh2.RequestReceived):
            answer(connection, event.stream_id)

    return script


@pytest.mark.parametrize(
    ("headers", "body", "status", "text"),
    [
        ([(b":status", b"502"), (b"content-type", b"text/html")], b"<h1>", Status.UNAVAILABLE, "502"),
        ([(b":status", b"404")], None, Status.UNIMPLEMENTED, "404"),
        ([(b":status", b"401")], b"x" * 100_000, Status.UNAUTHENTICATED, "401"),
        ([(b":status", b"418")], None, Status.UNKNOWN, "418"),
        ([(b":status", b"200"), (b"content-type", b"text/html")], b"<h1>", Status.UNKNOWN, "text/html"),
        (_GRPC, _FRAME, Status.UNKNOWN, "without a grpc-status"),
        (_GRPC, None, Status.UNKNOWN, "without a grpc-status"),
        ([*_GRPC, (b"grpc-status", b"zero")], None, Status.UNKNOWN, "zero"),
        ([*_GRPC, (b"grpc-status", b"99")], None, Status.UNKNOWN, "99"),
        ([*_GRPC, (b"grpc-status", b"0")], None, Status.INTERNAL, "without a message"),
        ([*_GRPC, (b"grpc-status", b"5"), (b"grpc-message", b"%E2%9C%97 %zz %ff")], None, Status.NOT_FOUND, "✗ %zz \ufffd"),
        ([*_GRPC, (b"grpc-encoding", b"brotli")], _FRAME, Status.INTERNAL, "brotli"),
        ([*_GRPC, (b"grpc-encoding", b"gzip")], b"\1\0\0\0\2hi", Status.INTERNAL, "gzip"),
        (_GRPC, b"\1\0\0\0\2hi", Status.INTERNAL, "identity"),
        (_GRPC, b"\7\0\0\0\2hi", Status.INTERNAL, "flag is 7"),
        (_GRPC, b"\0\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED, str(0xFFFFFFFF)),
        (_GRPC, _FRAME + _FRAME, Status.INTERNAL, "more than one message"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_grpc_becomes_a_status(
    faking: Faking,
    calling: Calling,
    headers: list[tuple[bytes, bytes]],
    body: bytes | None,
    status: Status,
    text: str,
) -> None:
    reply, _ = _reply(
        faking, calling, _once_asked(lambda server, stream: server.answer(stream, headers, body))
    )
    assert reply.status is status
    assert text in reply.text
    assert reply.body == b""


@pytest.mark.parametrize(
    ("parts", "status", "text"),
    [
        ([], Status.INTERNAL, "without a message"),
        ([_FRAME[:6]], Status.INTERNAL, "before its message did"),
        ([_FRAME, b"\0\0"], Status.INTERNAL, "before its message did"),
        ([_FRAME, _FRAME], Status.INTERNAL, "more than one message"),
        ([_FRAME[:3], _FRAME[3:6], _FRAME[6:]], Status.OK, ""),
    ],
)
def test_ok_needs_exactly_one_message(
    faking: Faking, calling: Calling, parts: list[bytes], status: Status, text: str
) -> None:
    reply, _ = _reply(faking, calling, _once_asked(lambda server, stream: server.answer_ok(stream, *parts)))
    assert (reply.status, reply.body) == (status, b"hi" if status is Status.OK else b"")
    assert text in reply.text


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0, Status.INTERNAL),
        (2, Status.INTERNAL),
        (8, Status.CANCELLED),
        (11, Status.RESOURCE_EXHAUSTED),
        (12, Status.PERMISSION_DENIED),
    ],
)
def test_a_reset_becomes_a_status(faking: Faking, calling: Calling, code: int, status: Status) -> None:
    reply, stats = _reply(
        faking, calling, _once_asked(lambda server, stream: server.engine.reset_stream(stream, code))
    )
    assert (reply.status, reply.origin) == (status, Origin.CLIENT)
    assert stats.retried == 0


@pytest.mark.parametrize(("refusals", "status"), [(1, Status.OK), (2, Status.UNAVAILABLE)])
def test_a_refused_stream_is_sent_once_more(
    faking: Faking, calling: Calling, refusals: int, status: Status
) -> None:
    left = refusals

    def answer(server: Any, stream: int) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            server.engine.reset_stream(stream, int(ngh2.ErrorCode.REFUSED_STREAM))
        else:
            server.answer_ok(stream, _FRAME)

    reply, stats = _reply(faking, calling, _once_asked(answer))
    assert reply.status is status
    assert stats.retried == 1


def test_a_refused_streaming_call_is_sent_once_more_with_its_messages(
    faking: Faking, calling: Calling
) -> None:
    received: dict[int, bytes] = {}

    def script(server: Any, event: Any) -> None:
        if isinstance(event, ngh2.DataReceived):
            received[event.stream_id] = received.get(event.stream_id, b"") + event.data
            if event.stream_id == 1:
                server.engine.reset_stream(1, int(ngh2.ErrorCode.REFUSED_STREAM))
            elif event.end_stream:
                server.answer_ok(event.stream_id, _FRAME, _FRAME)

    async def run() -> None:
        async with faking(script) as port, calling(port) as client:
            messages: list[bytes] = []
            ended = asyncio.get_running_loop().create_future()
            call = client.channel.stream(
                "/test.Wire/Bidi", on_message=messages.append, on_end=ended.set_result
            )
            call.send(b"one")
            while client.channel.stats.retried == 0:
                await asyncio.sleep(0)
            call.send(b"two")
            call.half_close()
            assert (await ended).status is Status.OK
            assert messages == [b"hi", b"hi"]

    uvloop.run(run())
    assert received[3] == b"\0\0\0\0\3one\0\0\0\0\3two"


def test_calls_beyond_a_goaway_are_sent_on_another_connection(faking: Faking, calling: Calling) -> None:
    def answer(server: Any, stream: int) -> None:
        if server is first[0]:
            # The third call is the last one looked at.
            if stream == 19:
                server.engine.send_goaway(0, last_stream_id=5)
                for each in (1, 3, 5):
                    server.answer_ok(each, _FRAME)
        else:
            server.answer_ok(stream, _FRAME)

    first: list[Any] = []

    def script(server: Any, event: Any) -> None:
        if not first:
            first.append(server)
        _once_asked(answer)(server, event)

    async def run() -> None:
        async with faking(script) as port, calling(port) as client:
            replies = await asyncio.gather(*(client.call("Echo", bytes(100)) for _ in range(10)))
            assert {reply.status for reply in replies} == {Status.OK}
            assert client.channel.stats.retried == 7
            assert client.channel.stats.connections == 2

    uvloop.run(run())


def test_a_server_may_allow_few_streams(faking: Faking, calling: Calling) -> None:
    open_now = most = 0

    def script(server: Any, event: Any) -> None:
        nonlocal open_now, most
        if isinstance(event, ngh2.RequestReceived):
            open_now += 1
            most = max(most, open_now)
            asyncio.get_running_loop().call_later(0.001, finish, server, event.stream_id)

    def finish(server: Any, stream: int) -> None:
        nonlocal open_now
        open_now -= 1
        server.answer_ok(stream, _FRAME)
        server.flush()

    async def run() -> None:
        async with (
            faking(script, MAX_CONCURRENT_STREAMS=3) as port,
            calling(port, max_connections=2) as client,
        ):
            replies = await asyncio.gather(*(client.call("Echo") for _ in range(50)))
            assert {reply.status for reply in replies} == {Status.OK}
            assert client.channel.stats.retried == 0

    uvloop.run(run())
    assert most == 6


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 4096,
    ],
)
@pytest.mark.parametrize("close", [False, True])
def test_what_is_no_http2_at_all_is_unavailable(
    answering: Faking, calling: Calling, data: bytes, close: bool
) -> None:
    async def run() -> None:
        async with answering(data, close=close) as port, calling(port, connect_timeout_s=1) as client:
            for _ in range(3):
                reply = await client.call("Echo", timeout_s=None)
                assert (reply.status, reply.origin) == (Status.UNAVAILABLE, Origin.CLIENT)
            # The pause after the first failure spares the server.
            assert client.channel.stats.connections_failed == 1

    uvloop.run(run())


def test_a_server_that_never_greets_is_given_up(answering: Faking, calling: Calling) -> None:
    async def run() -> None:
        async with answering(b"") as port, calling(port, connect_timeout_s=0.1) as client:
            reply = await client.call("Echo", timeout_s=None)
            assert reply.status is Status.UNAVAILABLE
            assert "no greeting within 0.1 s" in reply.text

    uvloop.run(run())


def test_a_server_that_greets_and_closes_is_not_asked_without_pause(faking: Faking, calling: Calling) -> None:
    def script(server: Any, event: Any) -> None:
        server.transport.close()

    async def run() -> None:
        async with faking(script) as port, calling(port) as client:
            for _ in range(20):
                assert (await client.call("Echo")).status is Status.UNAVAILABLE
            assert client.channel.stats.connections_failed == 1

    uvloop.run(run())


def test_response_headers_beyond_the_limit_cost_the_connection_or_the_call(
    faking: Faking, calling: Calling
) -> None:
    headers = [*_GRPC, *((b"x-%d" % number, b"v" * 1000) for number in range(200))]
    reply, _ = _reply(faking, calling, _once_asked(lambda server, stream: server.answer(stream, headers)))
    assert reply.status in (Status.UNAVAILABLE, Status.INTERNAL)


def test_metadata_that_is_no_base64_is_left_out(faking: Faking, calling: Calling) -> None:
    headers = [*_GRPC, (b"x-bad-bin", b"!!!"), (b"x-good-bin", b"AQ,Ag=="), (b"grpc-status", b"9")]
    reply, _ = _reply(faking, calling, _once_asked(lambda server, stream: server.answer(stream, headers)))
    assert reply.trailing == [("x-good-bin", b"\1"), ("x-good-bin", b"\2")]


def test_a_silent_server_with_open_calls_is_given_up(faking: Faking, calling: Calling) -> None:
    def script(server: Any, event: Any) -> None:
        if isinstance(event, ngh2.RequestReceived):
            # From here on nothing is read, not even a PING.
            server.transport.pause_reading()

    reply, _ = _reply(faking, calling, script, keepalive_s=0.05, keepalive_timeout_s=0.1)
    assert (reply.status, reply.origin) == (Status.UNAVAILABLE, Origin.CLIENT)


@pytest.mark.parametrize("seed", range(20))
def test_random_frames_end_calls_and_break_nothing(faking: Faking, calling: Calling, seed: int) -> None:
    draw = random.Random(seed)

    def noise() -> bytes:
        """Return a frame of a random type, with a header that is often right."""
        payload = draw.randbytes(draw.choice([0, 4, 5, 8, 30, 200]))
        kind, flags = draw.randrange(12), draw.choice([0, 1, 4, 5, 0x20, 0xFF])
        stream = draw.choice([0, 1, 1, 1, 3, 2, 99])
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def script(server: Any, event: Any) -> None:
        if isinstance(event, ngh2.RequestReceived):
            server.flush()
            server.transport.write(b"".join(noise() for _ in range(draw.randrange(1, 6))))

    async def run() -> None:
        limits = {"backoff_first_s": 0.001, "backoff_max_s": 0.001}
        async with faking(script) as port, calling(port, **limits) as client:
            for _ in range(10):
                reply = await client.call("Echo", b"hello", timeout_s=0.1)
                assert reply.status is not Status.OK

    uvloop.run(run())
