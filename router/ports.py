"""The sockets of the inference port: bound by the supervisor, owned by workers, handed from one to the next.

Each worker has sockets of its own, and the kernel spreads connections over those listened on. A worker that replaces a
living one gets that one's sockets, with what waits in them, so that no connection is lost between the two. Nobody but
workers keeps them open: those of a worker that dies are gone in that moment, and new connections go to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import Final

from anabranch.wire.listen import bind

_HAND_OVER_S: Final = 5.0
_MOST_SOCKETS: Final = 16
_ASK: Final = b"?"
_log = logging.getLogger(__name__)


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
        # By place, the lines to its workers, the latest last: a replacement may fail, and leave its predecessor.
        self._lines: list[list[socket.socket]] = [[] for _ in range(places)]
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

    async def sockets(self, place: int) -> list[socket.socket]:
        """The sockets for a place's next worker: those of its present one, or fresh ones; close them once it has them.

        Raises:
            OSError: Fresh ones cannot be bound.
        """
        lines = self._lines[place]
        while lines:
            try:
                return await asyncio.wait_for(_ask(self._loop, lines[-1]), _HAND_OVER_S)
            except (OSError, TimeoutError) as error:
                _log.debug("a worker of place %d hands nothing over: %r", place, error)
                lines.pop().close()
        return await bind(self._loop, self._host, self.port, reuse_port=True)

    def line(self, place: int) -> socket.socket:
        """A new worker's end of the line over which it hands its sockets on; close it once the worker has it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._lines[place].append(ours)
        return theirs

    def close(self) -> None:
        """Give the port up."""
        for sockets in (*self._lines, self._reserved):
            for each in sockets:
                each.close()
            sockets.clear()


def hand_on(loop: asyncio.AbstractEventLoop, line: socket.socket, listeners: Sequence[socket.socket]) -> None:
    """In a worker: give the sockets to the supervisor whenever it asks for them.

    Args:
        loop: Watches the line.
        line: The worker's end of it.
        listeners: What to hand on.
    """
    line.setblocking(False)

    def asked() -> None:
        with contextlib.suppress(OSError):
            if line.recv(1):
                socket.send_fds(line, [_ASK], [each.fileno() for each in listeners])
                return
        loop.remove_reader(line)
        line.close()

    loop.add_reader(line, asked)


async def _ask(loop: asyncio.AbstractEventLoop, line: socket.socket) -> list[socket.socket]:
    """Get a worker's sockets.

    Raises:
        OSError: It has ended.
    """
    await loop.sock_sendall(line, _ASK)
    answered = asyncio.Event()
    loop.add_reader(line, answered.set)
    try:
        await answered.wait()
    finally:
        loop.remove_reader(line)
    _, descriptors, _, _ = socket.recv_fds(line, 1, _MOST_SOCKETS)
    if not descriptors:
        raise ConnectionError("the worker has ended")
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]
