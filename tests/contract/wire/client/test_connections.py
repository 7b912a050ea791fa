"""A channel's connections: made, lost, drained, secured."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent import futures
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop

from anabranch.wire.client import ClientTls, Origin, Reply
from anabranch.wire.ngh2_server import Ngh2Wire
from anabranch.wire.seam import Call, Handlers, Limits, Status, Wire

Start = Callable[..., Any]
Calling = Callable[..., Any]

_TLS = Path(__file__).parents[1] / "tls"


def _echo(call: Call, message: bytes) -> None:
    call.reply(message)


def _later(call: Call, message: bytes) -> None:
    asyncio.get_running_loop().call_later(0.02, call.reply, message)


async def _serve(port: int = 0) -> tuple[Wire, int]:
    """Serve in this process; a port may be served twice."""
    wire = Ngh2Wire()
    handlers = Handlers(unary={"/test.Wire/Echo": _echo, "/test.Wire/Later": _later})
    port = await wire.start(host="127.0.0.1", port=port, handlers=handlers, limits=Limits(), reuse_port=True)
    return wire, port


@asynccontextmanager
async def _load(client: Any, calls: int) -> AsyncIterator[Counter[tuple[Status, str]]]:
    """Keep a number of calls in flight, and count how they end."""
    ended: Counter[tuple[Status, str]] = Counter()
    running = True

    async def keep_calling(number: int) -> None:
        while running:
            reply: Reply = await client.call("Later" if number % 4 else "Echo", b"%d" % number)
            assert reply.status is not Status.OK or reply.body == b"%d" % number
            ended[reply.status, reply.text] += 1

    tasks = [asyncio.create_task(keep_calling(number)) for number in range(calls)]
    yield ended
    running = False
    await asyncio.gather(*tasks)


async def _grow(ended: Counter[tuple[Status, str]], by: int) -> None:
    """Wait until so many more calls have ended."""
    goal = ended.total() + by
    while ended.total() < goal:
        await asyncio.sleep(0)


def test_a_drain_under_load_loses_no_call(calling: Calling) -> None:
    async def run() -> None:
        first, port = await _serve()
        async with calling(port, min_connections=3, max_connections=3) as client:
            await client.channel.ready(10)
            async with _load(client, 40) as ended:
                await _grow(ended, 200)
                for _ in range(3):
                    second, _ = await _serve(port)
                    await first.drain(5)
                    await _grow(ended, 200)
                    first = second
            assert set(ended) == {(Status.OK, "")}
            assert client.channel.stats.connections >= 12
            assert client.channel.stats.connections_lost == 0
        await first.close()

    uvloop.run(run())


def test_a_server_that_lets_connections_grow_old_loses_no_call(calling: Calling) -> None:
    handler = grpc.method_handlers_generic_handler(
        "test.Wire",
        {name: grpc.unary_unary_rpc_method_handler(lambda request, _: request) for name in ("Echo", "Later")},
    )
    server = grpc.server(
        futures.ThreadPoolExecutor(4),
        options=[("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 5000)],
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    async def run() -> None:
        async with calling(port, min_connections=2) as client, _load(client, 20) as ended:
            while client.channel.stats.connections < 12:
                await _grow(ended, 10)
        assert set(ended) == {(Status.OK, "")}

    try:
        uvloop.run(run())
    finally:
        server.stop(None)


def test_calls_in_flight_on_a_killed_server_are_unavailable(start_server: Start, calling: Calling) -> None:
    server = start_server()

    async def run() -> None:
        async with calling(server.port, backoff_first_s=0.01) as client:
            hanging = [client.start("Hang", timeout_s=None)[1] for _ in range(50)]
            while json.loads((await client.call("Stats")).body)["calls"] < 50:
                pass
            server.process.kill()
            replies = await asyncio.gather(*hanging)
            assert {reply.status for reply in replies} == {Status.UNAVAILABLE}
            assert {reply.origin for reply in replies} == {Origin.CLIENT}
            assert "lost" in replies[0].text
            assert (await client.call("Echo")).status is Status.UNAVAILABLE
            assert client.channel.stats.connections_lost == 1

    uvloop.run(run())


def test_a_refused_connection_is_unavailable_and_tried_again_later(calling: Calling) -> None:
    async def run() -> None:
        server, port = await _serve()
        await server.close()
        async with calling(port, backoff_first_s=0.05, backoff_max_s=0.05) as client:
            reply = await client.call("Echo", timeout_s=None)
            assert (reply.status, reply.origin) == (Status.UNAVAILABLE, Origin.CLIENT)
            assert f"127.0.0.1:{port}: Connection refused" in reply.text
            # During the pause, calls end at once.
            reply = await client.call("Echo", timeout_s=None)
            assert "the next attempt is in 0." in reply.text
            assert client.channel.stats.connections_failed == 1
            with pytest.raises(TimeoutError, match=r"0 of 1 .* Connection refused"):
                await client.channel.ready(1)
            assert 2 <= client.channel.stats.connections_failed <= 22
            server, _ = await _serve(port)
            await client.channel.ready(10)
            assert (await client.call("Echo", b"back")).body == b"back"
            await server.close()

    uvloop.run(run())


def test_a_name_that_does_not_resolve_is_unavailable(calling: Calling) -> None:
    async def run() -> None:
        async with calling(9, host="name.invalid") as client:
            reply = await client.call("Echo")
            assert reply.status is Status.UNAVAILABLE
            assert "name.invalid:9" in reply.text

    uvloop.run(run())


def test_closing_a_channel_cancels_its_calls(start_server: Start, calling: Calling) -> None:
    server = start_server()

    async def run() -> None:
        async with calling(server.port, max_concurrent_streams=1, max_connections=1) as client:
            await client.channel.ready(10)
            sent, waiting = client.start("Hang")[1], client.start("Hang")[1]
            asked = 1
            while server.stats()["calls"] == asked:
                asked += 1
                await asyncio.sleep(0)
            await client.channel.close()
            assert (await sent).status is Status.CANCELLED
            assert (await waiting).status is Status.CANCELLED
            assert (await client.call("Echo")).status is Status.CANCELLED

    uvloop.run(run())
    server.eventually(lambda: server.stats()["cancelled"] >= 1)


def test_a_channel_that_still_connects_can_be_closed(calling: Calling, answering: Start) -> None:
    async def run() -> None:
        async with answering(b"") as port, calling(port) as client:
            waiting = client.start("Echo")[1]
            await asyncio.sleep(0)
            await client.channel.close()
            assert (await waiting).status is Status.CANCELLED

    uvloop.run(run())


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_and_mutual_tls(start_server: Start, calling: Calling, mutual: bool) -> None:
    files = {"certificate_file": str(_TLS / "server.pem"), "key_file": str(_TLS / "server.key")}
    if mutual:
        files["client_ca_file"] = str(_TLS / "ca.pem")
    server = start_server(tls=files)
    anonymous = ClientTls(ca_file=_TLS / "ca.pem")
    named = ClientTls(
        ca_file=_TLS / "ca.pem", certificate_file=_TLS / "client.pem", key_file=_TLS / "client.key"
    )
    message = bytes(range(256)) * 8192

    async def run() -> None:
        async with calling(server.port, tls=named) as client:
            assert (await client.call("Echo", message)).body == message
        async with calling(server.port, tls=anonymous) as client:
            status = (await client.call("Echo", message)).status
            assert status is (Status.UNAVAILABLE if mutual else Status.OK)

    uvloop.run(run())


def test_a_server_that_cannot_show_who_it_is_gets_no_call(start_server: Start, calling: Calling) -> None:
    server = start_server(
        tls={"certificate_file": str(_TLS / "server.pem"), "key_file": str(_TLS / "server.key")}
    )

    async def run() -> None:
        for tls in (ClientTls(), ClientTls(ca_file=_TLS / "ca.pem", server_name="other.example")):
            async with calling(server.port, tls=tls) as client:
                reply = await client.call("Echo")
                assert reply.status is Status.UNAVAILABLE
                assert "certificate is refused" in reply.text
        async with calling(server.port) as client:
            assert (await client.call("Echo")).status is Status.UNAVAILABLE
        named = ClientTls(ca_file=_TLS / "ca.pem", server_name="localhost")
        async with calling(server.port, tls=named) as client:
            assert (await client.call("Echo", b"right name")).body == b"right name"

    uvloop.run(run())
