import asyncio
import contextlib
import socket

from anabranch.wire.ngh2_server import Ngh2Wire
from anabranch.wire.seam import Handlers, Limits


async def first_bytes(wire: Ngh2Wire) -> bytes:
    """What a client of a fresh connection hears first; nothing at all where the connection is refused."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    await wire.adopt(ours)
    with theirs, contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(loop.sock_recv(theirs, 100), 30)
    return b""


def test_a_connection_that_arrives_while_the_wire_drains_is_refused_at_once() -> None:
    async def body() -> None:
        wire = Ngh2Wire()
        await wire.start(host="127.0.0.1", port=0, handlers=Handlers(), limits=Limits())
        assert await first_bytes(wire) != b""
        draining = asyncio.create_task(wire.drain(30.0))
        await asyncio.sleep(0)
        assert await first_bytes(wire) == b""
        await asyncio.wait_for(draining, 60)
        assert wire.stats.connections_refused == 1

    asyncio.run(body())
