"""Streaming calls of the wire's client against both wires' servers."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from anabranch.wire.client import ClientStreamCall, Origin, Reply
from anabranch.wire.seam import Metadata, Status

Server = Any
Calling = Callable[..., Any]


class Stream:
    """A streaming call, what it received, and its end."""

    def __init__(self, client: Any, name: str, timeout_s: float = 20, pause_after: int | None = None) -> None:
        self.messages: list[bytes] = []
        self.initial: Metadata | None = None
        self.drained = asyncio.Event()
        self.arrived = asyncio.Event()
        self.pause_after = pause_after
        self.ended: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.call: ClientStreamCall = client.channel.stream(
            f"/test.Wire/{name}",
            on_message=self.take,
            on_end=self.ended.set_result,
            on_start=self.start,
            on_drain=self.drained.set,
            deadline=client.now + timeout_s,
        )

    def keeps_up(self) -> bool:
        return self.call.writable

    def start(self, metadata: Metadata) -> None:
        assert not self.messages
        self.initial = metadata

    def take(self, message: bytes) -> None:
        assert self.initial is not None
        self.messages.append(message)
        self.arrived.set()
        if self.pause_after == len(self.messages):
            self.call.pause()


def test_messages_go_both_ways(server: Server, calling: Calling) -> None:
    sent = [b"one", b"", b"x" * 100_000, b"four"]

    async def run() -> None:
        async with calling(server.port) as client:
            stream = Stream(client, "Bidi")
            for message in sent:
                stream.call.send(message)
            stream.call.half_close()
            stream.call.send(b"too late")
            reply = await stream.ended
            assert (reply.status, reply.origin) == (Status.OK, Origin.SERVER)
            assert dict(reply.trailing)["x-end"] == "half-close"
            assert stream.messages == sent

    uvloop.run(run())


def test_a_conversation_takes_turns(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port) as client:
            stream = Stream(client, "Stepwise")
            for number in range(20):
                stream.arrived.clear()
                stream.call.send(b"%d" % number)
                await stream.arrived.wait()
            stream.call.half_close()
            assert (await stream.ended).status is Status.OK
            assert stream.messages == [b"%d" % number for number in range(20)]

    uvloop.run(run())


def test_initial_metadata_arrives_before_the_messages(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port) as client:
            stream = Stream(client, "Sink")
            stream.call.half_close()
            reply = await stream.ended
            assert stream.initial is not None
            assert dict(stream.initial)["x-initial"] == "i"
            assert dict(reply.trailing)["x-end"] == "e"

    uvloop.run(run())


def test_an_error_ends_a_stream_early(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port) as client:
            stream = Stream(client, "Early")
            stream.call.send(bytes(4 << 20))
            reply = await stream.ended
            assert (reply.status, reply.text) == (Status.FAILED_PRECONDITION, "not now")
            stream.call.send(b"nobody listens")
            stream.call.half_close()
            stream.call.cancel()

    uvloop.run(run())


def test_a_server_that_does_not_read_holds_the_sender_up(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port, write_buffer_bytes=1 << 20) as client:
            stream = Stream(client, "Stuck")
            sent = 0
            while stream.keeps_up():
                stream.call.send(bytes(64 * 1024))
                sent += 64 * 1024
                if not stream.keeps_up():
                    # What fits the server's windows leaves meanwhile; and other calls of the connection go on.
                    assert (await client.call("Echo", b"quick")).body == b"quick"
                assert sent < 64 << 20
            stream.drained.clear()
            assert (await client.call("Later", b"20")).status is Status.OK
            assert not stream.drained.is_set()
            stream.call.cancel()

    uvloop.run(run())


def test_a_sender_goes_on_when_the_server_has_caught_up(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port, write_buffer_bytes=256 * 1024) as client:
            stream = Stream(client, "Sink")
            for _ in range(100):
                while not stream.call.writable:
                    stream.drained.clear()
                    await stream.drained.wait()
                stream.call.send(bytes(100_000))
            stream.call.half_close()
            assert (await stream.ended).status is Status.OK
            assert json.loads(stream.messages[0]) == [100_000] * 100

    uvloop.run(run())


def test_a_slow_reader_holds_the_server_up(server: Server, calling: Calling) -> None:
    size, number = 10_000, 2_000

    async def run() -> None:
        async with calling(server.port, stream_window_bytes=65_535) as client:
            stream = Stream(client, "Flood", pause_after=1)
            stream.call.send(json.dumps([number, size]).encode())
            await stream.arrived.wait()
            # Other calls come and go; of the stream, no more than its window waits here.
            for _ in range(50):
                assert (await client.call("Echo", b"quick")).body == b"quick"
            assert len(stream.messages) == 1
            assert not stream.ended.done()
            stream.call.resume()
            stream.call.half_close()
            assert (await stream.ended).status is Status.OK
            assert [len(message) for message in stream.messages] == [size] * number

    uvloop.run(run())


def test_what_cancelled_streams_left_unread_gives_its_window_back(server: Server, calling: Calling) -> None:
    window = 1 << 20

    async def run() -> None:
        limits = {"stream_window_bytes": window, "connection_window_bytes": window, "max_connections": 1}
        async with calling(server.port, **limits) as client:
            for _ in range(8):
                stream = Stream(client, "Flood", pause_after=1)
                # Less than half a window: as much may have been read without the server having been told.
                stream.call.send(json.dumps([24, 20_000]).encode())
                await stream.arrived.wait()
                assert (await client.call("Later", b"5")).status is Status.OK
                stream.call.cancel()
            assert (await client.call("Big", b"3000000")).body == bytes(3_000_000)

    uvloop.run(run())


def test_a_paused_reader_gets_all_messages_before_the_end(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port) as client:
            stream = Stream(client, "Bidi", pause_after=1)
            for number in range(5):
                stream.call.send(b"%d" % number)
            stream.call.half_close()
            await stream.arrived.wait()
            assert (await client.call("Later", b"5")).status is Status.OK
            assert not stream.ended.done()
            stream.call.resume()
            assert (await stream.ended).status is Status.OK
            assert stream.messages == [b"%d" % number for number in range(5)]

    uvloop.run(run())


def test_a_cancelled_stream_reaches_the_server(server: Server, calling: Calling) -> None:
    before = server.stats()["handler_cancelled"]

    async def run() -> None:
        async with calling(server.port) as client:
            stream = Stream(client, "Stuck")
            while stream.initial is None:
                await asyncio.sleep(0)
            stream.call.cancel()
            while json.loads((await client.call("Stats")).body)["handler_cancelled"] <= before:
                pass
            assert not stream.ended.done()

    uvloop.run(run())


def test_a_stream_ends_at_its_deadline(server: Server, calling: Calling) -> None:
    async def run() -> None:
        async with calling(server.port) as client:
            assert (await Stream(client, "Stuck", timeout_s=0.1).ended).status is Status.DEADLINE_EXCEEDED

    uvloop.run(run())


def test_a_callback_that_raises_ends_its_stream(
    server: Server, calling: Calling, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with calling(server.port) as client:
            stream = Stream(client, "Bidi")
            ended = asyncio.get_running_loop().create_future()

            def fail(message: bytes) -> None:
                raise RuntimeError("the caller's own mistake")

            call = client.channel.stream("/test.Wire/Bidi", on_message=fail, on_end=ended.set_result)
            call.send(b"first")
            reply = await ended
            assert (reply.status, reply.origin) == (Status.INTERNAL, Origin.CLIENT)
            stream.call.half_close()
            assert (await stream.ended).status is Status.OK

    uvloop.run(run())
    assert "the caller's own mistake" in caplog.text
