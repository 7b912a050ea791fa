"""The sockets of the inference port: bound by the supervisor, listened on by workers, kept over their replacement.

Each place for a worker has sockets of its own, and the kernel spreads connections over those listened on. A worker that
takes a place over finds there what waits in them, so that no connection is lost between the two. They listen only once
a worker does: until then, clients are turned away at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from anabranch.wire.listen import bind


def check_port(host: str, port: int) -> None:
    """See that nobody has a port, before anything else is begun.

    Raises:
        OSError: Somebody has, or the host is none of this machine's.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in found:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)


class Ports:
    """One port, shared by several places.

    Args:
        loop: Resolves the host.
        host: Name or address to listen on.
        places: Workers that share the port.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, host: str, places: int) -> None:
        self._loop = loop
        self._host = host
        self._reserved: list[socket.socket] = []
        self._sockets: list[list[socket.socket]] = [[] for _ in range(places)]
        self.port = 0

    async def open(self, port: int) -> None:
        """Take the port for this server alone.

        Args:
            port: 0 takes a free one.

        Raises:
            OSError: The port is taken, or the host is none of this machine's.
        """
        probes = await bind(self._loop, self._host, port, reuse_port=False)
        self.port = int(probes[0].getsockname()[1])
        addresses = [(probe.family, probe.getsockname()) for probe in probes]
        for probe in probes:
            probe.close()
        for family, address in addresses:
            # Without SO_REUSEADDR, which would let another server's probe through while no worker listens.
            held = socket.socket(family)
            self._reserved.append(held)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            held.bind(address)
        for place in range(len(self._sockets)):
            await self.renew(place)

    def sockets(self, place: int) -> Sequence[socket.socket]:
        """The sockets of a place, for a worker to listen on."""
        return self._sockets[place]

    async def renew(self, place: int) -> None:
        """Give a place fresh sockets: its worker is gone, and what waits in the old ones should go to others at once."""
        self._close(self._sockets[place])
        self._sockets[place] = await bind(self._loop, self._host, self.port, reuse_port=True)

    def close(self) -> None:
        """Give the port up."""
        for sockets in (*self._sockets, self._reserved):
            self._close(sockets)
            sockets.clear()

    @staticmethod
    def _close(sockets: Sequence[socket.socket]) -> None:
        for each in sockets:
            each.close()
