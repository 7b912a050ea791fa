"""Unary calls of the wire's client against both wires' servers."""

import asyncio
import json
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import pytest
import uvloop

from anabranch.wire.client import Origin, Reply
from anabranch.wire.seam import Status

Server = Any
Calling = Callable[..., Any]


def test_a_message_comes_back(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port) as client:
            for message in (b"hello", b""):
                reply = await client.call("Echo", message)
                assert (reply.status, reply.body, reply.origin) == (Status.OK, message, Origin.SERVER)

    uvloop.run(run())


@pytest.mark.parametrize("size", [1, 16_379, 16_384, 65_536, 1 << 20, 16 << 20])
def test_messages_of_every_size_come_back(server: Server, calling: Calling, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)

    async def run() -> Reply:
        async with calling(server.port) as client:
            reply: Reply = await client.call("Echo", message)
            return reply

    assert uvloop.run(run()).body == message


def test_metadata_arrives_in_both_directions(server: Server, calling: Calling) -> None:
    sent = [("x-user-id", "u1"), ("x-user-id", "u2"), ("x-key-bin", b"\0\1\xfe,"), ("x-empty", "")]

    async def run() -> Reply:
        async with calling(server.port) as client:
            reply: Reply = await client.call("Metadata", metadata=sent)
            return reply

    reply = uvloop.run(run())
    seen = json.loads(reply.body)
    own = [pair for pair in seen["metadata"] if pair[0].startswith("x-")]
    assert own == [["x-user-id", "u1"], ["x-user-id", "u2"], ["x-key-bin", "0001fe2c"], ["x-empty", ""]]
    assert dict(seen["metadata"])["user-agent"].startswith("grpc-python-")
    assert dict(reply.metadata)["x-invoked-variant"] == reply.find(b"x-invoked-variant") == "onnx-fp32"
    assert dict(reply.metadata)["x-raw-bin"] == b"\0\xff\x10"
    assert dict(reply.trailing)["x-assignment-id"] == reply.find(b"x-assignment-id") == "a1"
    assert not any(name.startswith((":", "grpc-")) for name, _ in [*reply.metadata, *reply.trailing])


@pytest.mark.parametrize("metadata", [[("x-key-bin", "text")], [("grpc-status", "0")], [("X-Upper", "u")]])
def test_metadata_that_cannot_be_sent_is_refused_at_once(
    server: Server, calling: Calling, metadata: list[tuple[str, str]]
) -> None:
    async def run() -> None:
        async with calling(server.port) as client:
            with pytest.raises(ValueError, match="metadata"):
                client.start("Echo", metadata=metadata)
            assert (await client.call("Echo", b"after")).body == b"after"

    uvloop.run(run())


def test_an_error_arrives_with_its_code_text_and_metadata(server: Server, calling: Calling) -> None:
    text = "Größe 12 % zu groß: 推論 ✗\n\ttab"

    async def run() -> None:
        async with calling(server.port) as client:
            for status in list(Status)[1:]:
                wanted = json.dumps({"status": int(status), "message": text}).encode()
                reply = await client.call("Fail", wanted)
                assert (reply.status, reply.text, reply.origin) == (status, text, Origin.SERVER)
                assert ("x-reason", "asked") in reply.trailing
                assert ("x-reason-bin", b"\1") in reply.trailing

    uvloop.run(run())


def test_an_unknown_method_is_unimplemented(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port) as client:
            assert (await client.call("Nothing")).status is Status.UNIMPLEMENTED
            # The answer comes before the request is sent to its end.
            assert (await client.call("Nothing", bytes(8 << 20))).status is Status.UNIMPLEMENTED
            assert (await client.call("Echo", b"after")).body == b"after"

    uvloop.run(run())


def test_the_server_is_told_the_rest_of_the_time(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port) as client:
            left = json.loads((await client.call("Remaining", timeout_s=7)).body)
            assert 5 < left <= 7.1
            assert json.loads((await client.call("Remaining", timeout_s=None)).body) is None

    uvloop.run(run())


def test_a_call_ends_at_its_deadline_on_both_sides(server: Server, calling: Calling) -> None:
    before = server.stats()["handler_cancelled"]

    async def run() -> None:
        async with calling(server.port) as client:
            began = client.now
            reply = await client.call("Hang", timeout_s=0.1)
            assert reply.status is Status.DEADLINE_EXCEEDED
            assert 0.09 < client.now - began < 5
            assert (await client.call("Echo", timeout_s=-1)).status is Status.DEADLINE_EXCEEDED

    uvloop.run(run())
    server.eventually(lambda: server.stats()["handler_cancelled"] == before + 1)


def test_a_cancelled_call_reaches_the_server_and_calls_nobody_back(server: Server, calling: Calling) -> None:
    before = server.stats()

    async def run() -> None:
        async with calling(server.port) as client:
            hanging = [client.start("Hang") for _ in range(5)]
            while json.loads((await client.call("Stats")).body)["calls"] < before["calls"] + 6:
                pass
            for call, _ in hanging:
                call.cancel()
                call.cancel()
            cancelled = before["handler_cancelled"] + 5
            while json.loads((await client.call("Stats")).body)["handler_cancelled"] < cancelled:
                pass
            assert not any(future.done() for _, future in hanging)
            assert client.channel.stats.cancelled == 5

    uvloop.run(run())


def test_a_thousand_calls_at_once_are_answered_each_with_its_own(server: Server, calling: Calling) -> None:
    async def run() -> list[bytes]:
        async with calling(server.port, max_concurrent_streams=100, max_connections=4) as client:
            replies = await asyncio.gather(*(client.call("Echo", b"%d" % number) for number in range(1000)))
            assert client.channel.stats.connections <= 4
            return [reply.body for reply in replies]

    assert uvloop.run(run()) == [b"%d" % number for number in range(1000)]


def test_connections_open_one_by_one_as_calls_fill_them(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port, max_concurrent_streams=3, max_connections=4) as client:
            hanging = [client.start("Hang")[0] for _ in range(14)]
            while client.channel.stats.connections < 4:
                await asyncio.sleep(0)
            # The last two wait, as a fifth connection is not allowed.
            assert not client.channel.writable
            for call in hanging:
                call.cancel()
            assert (await client.call("Echo", b"after")).body == b"after"
            assert client.channel.stats.connections == 4

    uvloop.run(run())


def test_calls_wait_for_room_up_to_a_limit(server: Server, calling: Calling) -> None:
    async def run() -> None:
        limits = {"max_concurrent_streams": 2, "max_connections": 1, "max_pending": 10}
        async with calling(server.port, **limits) as client:
            await client.channel.ready(10)
            started = [client.start("Later", b"20")[1] for _ in range(15)]
            assert not client.channel.writable
            statuses = [reply.status for reply in await asyncio.gather(*started)]
            assert statuses == [Status.OK] * 12 + [Status.UNAVAILABLE] * 3
            assert client.channel.stats.refused == 3
            assert client.channel.writable

    uvloop.run(run())


def test_a_call_that_waits_for_room_can_end_before_it_is_sent(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port, max_concurrent_streams=1, max_connections=1) as client:
            blocker, _ = client.start("Hang")
            cancelled, never = client.start("Echo")
            late = await client.call("Echo", timeout_s=0.05)
            assert late.status is Status.DEADLINE_EXCEEDED
            cancelled.cancel()
            blocker.cancel()
            assert (await client.call("Echo", b"after")).body == b"after"
            assert not never.done()

    uvloop.run(run())


def test_requests_in_flight_hold_a_bounded_number_of_bytes(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port, max_buffered_bytes=3 << 20) as client:
            started = [client.start("Later", b"%020d" % 30 + b" " * (1 << 20))[1] for _ in range(5)]
            statuses = [reply.status for reply in await asyncio.gather(*started)]
            assert statuses.count(Status.UNAVAILABLE) == 3
            assert statuses.count(Status.OK) == 2

    uvloop.run(run())


def test_a_reply_over_the_limit_is_refused_with_both_numbers(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port, max_message_bytes=1 << 20) as client:
            reply = await client.call("Big", b"%d" % (5 << 20))
            assert reply.status is Status.RESOURCE_EXHAUSTED
            assert str(5 << 20) in reply.text
            assert str(1 << 20) in reply.text
            assert (await client.call("Big", b"%d" % (1 << 20))).body == bytes(1 << 20)

    uvloop.run(run())


def test_a_callback_that_raises_harms_no_other_call(
    server: Server, calling: Calling, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with calling(server.port) as client:

            def fail(reply: Reply) -> None:
                raise RuntimeError("the caller's own mistake")

            client.channel.unary("/test.Wire/Echo", b"", done=fail)
            assert (await client.call("Echo", b"after")).body == b"after"

    uvloop.run(run())
    assert "the caller's own mistake" in caplog.text


def test_a_callback_may_begin_further_calls(server: Server, calling: Calling) -> None:
    async def run() -> int:
        async with calling(server.port, max_connections=1) as client:
            over = asyncio.get_running_loop().create_future()
            left = 200

            def again(reply: Reply) -> None:
                nonlocal left
                left -= 1
                if left:
                    client.channel.unary("/test.Wire/Echo", b"", done=again)
                else:
                    over.set_result(reply.status)

            client.channel.unary("/test.Wire/Echo", b"", done=again)
            await over
            return int(client.channel.stats.calls)

    assert uvloop.run(run()) == 200


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_replies_are_read(calling: Calling, compression: grpc.Compression) -> None:
    message = b"abc" * 100_000
    handler = grpc.method_handlers_generic_handler(
        "test.Wire", {"Echo": grpc.unary_unary_rpc_method_handler(lambda request, _: request)}
    )
    compressing = grpc.server(futures.ThreadPoolExecutor(2), compression=compression)
    compressing.add_generic_rpc_handlers((handler,))
    port = compressing.add_insecure_port("127.0.0.1:0")
    compressing.start()

    async def run() -> None:
        async with calling(port) as client:
            reply = await client.call("Echo", message)
            assert (b"grpc-encoding", compression.name.lower().encode()) in reply.headers
            assert reply.body == message
        async with calling(port, max_message_bytes=1000) as client:
            assert (await client.call("Echo", message)).status is Status.RESOURCE_EXHAUSTED

    try:
        uvloop.run(run())
    finally:
        compressing.stop(None)
