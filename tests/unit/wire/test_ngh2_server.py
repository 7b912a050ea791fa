"""The fast wire on asyncio's own loop, within the test's process."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import ngh2
import pytest

from anabranch.wire.ngh2_server import Ngh2Wire
from anabranch.wire.seam import Call, Handlers, Limits, Status


class Client:
    """One call over one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.engine = ngh2.Connection(ngh2.Role.CLIENT)
        self.engine.initiate_connection()
        self.going_away = False

    async def call(self, method: str, body: bytes) -> tuple[bytes, dict[bytes, bytes]]:
        fields = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": method.encode(),
            b":authority": b"test",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
        }
        stream_id = self.engine.send_request(list(fields.items()))
        self.engine.send_data(stream_id, b"\0" + len(body).to_bytes(4, "big") + body, end_stream=True)
        data = b""
        headers: dict[bytes, bytes] = {}
        while True:
            self.writer.write(self.engine.data_to_send())
            received = await self.reader.read(65_536)
            assert received, "the server closed the connection"
            self.engine.receive_data(received)
            for event in self.engine.events():
                match event:
                    case ngh2.DataReceived():
                        data += event.data
                    case ngh2.ResponseReceived() | ngh2.TrailersReceived():
                        headers.update(event.headers)
                    case ngh2.GoAwayReceived():
                        self.going_away = True
                    case ngh2.StreamClosed():
                        return data[5:], headers


def _echo(call: Call, message: bytes) -> None:
    call.reply(message, metadata=[("x-peer", call.peer)])


async def _start(
    wire: Ngh2Wire, *, before_flush: Callable[[], None] | None = None, host: str = "127.0.0.1"
) -> int:
    return await wire.start(
        host=host,
        port=0,
        handlers=Handlers(unary={"/t/Echo": _echo, "/t/Hang": lambda call, message: None}),
        limits=Limits(),
        before_flush=before_flush,
    )


def _run(test: Callable[[Ngh2Wire], Awaitable[None]]) -> None:
    async def body() -> None:
        wire = Ngh2Wire()
        try:
            await asyncio.wait_for(test(wire), 20)
        finally:
            await wire.close()

    asyncio.run(body())


def test_it_runs_on_any_loop() -> None:
    async def test(wire: Ngh2Wire) -> None:
        port = await _start(wire)
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        for size in (0, 5, 70_000):
            reply, headers = await client.call("/t/Echo", bytes(size))
            assert reply == bytes(size)
            assert headers[b"grpc-status"] == b"0"
        client.writer.close()

    _run(test)


def test_a_connection_accepted_elsewhere_is_served() -> None:
    async def test(wire: Ngh2Wire) -> None:
        await _start(wire)
        ours, theirs = socket.socketpair()
        await wire.adopt(ours)
        client = Client(*await asyncio.open_connection(sock=theirs))
        reply, headers = await client.call("/t/Echo", b"handed over")
        assert reply == b"handed over"
        assert headers[b"x-peer"] == b"unix:"
        client.writer.close()

    _run(test)


def test_all_addresses_of_a_host_share_one_port() -> None:
    async def test(wire: Ngh2Wire) -> None:
        port = await _start(wire, host="localhost")
        for family, *_, address in set(socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                await asyncio.get_running_loop().sock_connect(probe, address)

    _run(test)


def test_a_port_in_use_is_an_error() -> None:
    async def test(wire: Ngh2Wire) -> None:
        port = await _start(wire)
        second = Ngh2Wire()
        with pytest.raises(OSError, match="in use"):
            await second.start(host="127.0.0.1", port=port, handlers=Handlers(), limits=Limits())

    _run(test)


def test_two_wires_may_share_a_port() -> None:
    async def test(wire: Ngh2Wire) -> None:
        handlers = Handlers(unary={"/t/Echo": _echo})
        options = {"host": "127.0.0.1", "handlers": handlers, "limits": Limits(), "reuse_port": True}
        second = Ngh2Wire()
        port = await wire.start(port=0, **options)  # type: ignore[arg-type]  # a mixed dictionary
        assert await second.start(port=port, **options) == port  # type: ignore[arg-type]  # the same
        for _ in range(20):
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            assert (await client.call("/t/Echo", b"x"))[0] == b"x"
            client.writer.close()
        assert wire.stats.calls + second.stats.calls == 20
        await second.close()

    _run(test)


def test_a_drain_tells_an_idle_client_to_go_and_ends() -> None:
    async def test(wire: Ngh2Wire) -> None:
        port = await _start(wire)
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        await client.call("/t/Echo", b"x")
        drain = asyncio.ensure_future(wire.drain(10))
        while data := await client.reader.read(65_536):
            client.engine.receive_data(data)
            client.going_away |= any(
                isinstance(event, ngh2.GoAwayReceived) for event in client.engine.events()
            )
            client.writer.write(client.engine.data_to_send())
            if client.going_away:
                break
        client.writer.close()
        await drain
        assert client.going_away

    _run(test)


def test_the_end_of_a_drain_answers_what_still_hangs() -> None:
    async def test(wire: Ngh2Wire) -> None:
        port = await _start(wire)
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        await client.call("/t/Echo", b"x")
        hanging = asyncio.ensure_future(client.call("/t/Hang", b"x"))
        while wire.stats.calls < 2:
            await asyncio.sleep(0)
        await wire.drain(0.05)
        _, headers = await hanging
        assert headers[b"grpc-status"] == b"%d" % Status.UNAVAILABLE

    _run(test)


def test_a_wire_holds_nothing_of_calls_that_have_ended() -> None:
    async def test(wire: Ngh2Wire) -> None:
        port = await _start(wire)
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        for _ in range(5):
            await client.call("/t/Echo", bytes(100_000))
        assert wire.buffered_bytes == 0
        client.writer.close()

    _run(test)
