import asyncio
import socket
from collections.abc import Awaitable, Callable

import ngh2

from anabranch.wire.ngh2_server import Ngh2Wire
from anabranch.wire.seam import Handlers, Limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


class Peer:
    """A client whose every byte the test sends."""

    def __init__(self) -> None:
        self.engine = ngh2.Connection(ngh2.Role.CLIENT)
        self.engine.initiate_connection({})
        self.socket, self.theirs = socket.socketpair()
        self.socket.setblocking(False)
        self.theirs.setblocking(False)

    async def hear(self) -> bytes:
        """What the server says next; nothing once it has closed."""
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 65_536), 30)
        except ConnectionError:
            return b""

    async def until_sent_away(self) -> bool:
        """Speak HTTP/2 until the server says GOAWAY; False when it closes without."""
        loop = asyncio.get_running_loop()
        while True:
            await loop.sock_sendall(self.socket, bytes(self.engine.data_to_send()))
            data = await self.hear()
            if not data:
                return False
            self.engine.receive_data(data)
            if any(isinstance(event, ngh2.GoAwayReceived) for event in self.engine.events()):
                return True


def run(body: Callable[[Ngh2Wire], Awaitable[None]]) -> None:
    async def limited() -> None:
        wire = Ngh2Wire()
        await wire.start(host="127.0.0.1", port=0, handlers=Handlers(), limits=Limits())
        await asyncio.wait_for(body(wire), 60)

    asyncio.run(limited())


def test_a_connection_that_arrives_while_the_wire_drains_is_sent_elsewhere_and_not_cut() -> None:
    async def body(wire: Ngh2Wire) -> None:
        early, late = Peer(), Peer()
        await wire.adopt(early.theirs)
        await early.hear()
        draining = asyncio.create_task(wire.drain(30.0))
        await asyncio.sleep(0)
        await wire.adopt(late.theirs)
        assert await late.until_sent_away()
        late.socket.close()
        early.socket.close()
        await asyncio.wait_for(draining, 30)
        assert wire.stats.connections_refused == 0

    run(body)


def test_a_connection_that_has_not_begun_to_speak_is_sent_elsewhere_once_it_does() -> None:
    async def body(wire: Ngh2Wire) -> None:
        peer = Peer()
        await wire.adopt(peer.theirs)
        draining = asyncio.create_task(wire.drain(30.0))
        await asyncio.sleep(0)
        assert await peer.until_sent_away()
        peer.socket.close()
        await asyncio.wait_for(draining, 30)

    run(body)


def test_a_connection_that_never_speaks_does_not_hold_up_a_drain() -> None:
    async def body(wire: Ngh2Wire) -> None:
        peer = Peer()
        await wire.adopt(peer.theirs)
        await peer.hear()
        # Far less than the 30 s of grace.
        await asyncio.wait_for(wire.drain(30.0), 10)
        assert await peer.hear() == b""

    run(body)


def test_connections_that_wait_when_one_wire_stops_are_served_by_the_next() -> None:
    async def body() -> None:
        kept = socket.socket()
        kept.bind(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()

        async def start() -> Ngh2Wire:
            wire = Ngh2Wire()
            await wire.start(host="", port=0, handlers=Handlers(), limits=Limits(), listeners=[kept.dup()])
            return wire

        await (await start()).drain(1.0)
        client = socket.create_connection(kept.getsockname())
        client.setblocking(False)
        second = await start()
        await loop.sock_sendall(client, PREFACE + SETTINGS)
        assert await asyncio.wait_for(loop.sock_recv(client, 9), 30)
        client.close()
        await second.drain(5.0)
        kept.close()

    asyncio.run(asyncio.wait_for(body(), 60))
