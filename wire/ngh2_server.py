"""The fast wire: gRPC on the project's own HTTP/2 connections, one event loop, no task a request."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from anabranch.wire.deadlines import DeadlineWheel
from anabranch.wire.flush import Flusher
from anabranch.wire.http2 import Http2Connection
from anabranch.wire.http2_socket import receive_buffer
from anabranch.wire.listen import BACKLOG, bind, listen
from anabranch.wire.ngh2_connection import GrpcConnection
from anabranch.wire.ngh2_shared import Calls
from anabranch.wire.seam import Handlers, Limits, Status, StreamHandler, Tls, UnaryHandler, WireStats
from anabranch.wire.tls_files import TlsFiles

# Within this time a client has done its part of a TLS handshake that was begun when a drain began.
_HANDSHAKES_S: Final = 0.5


class Ngh2Wire:
    """A gRPC server; see `anabranch.wire.seam.Wire`."""

    def __init__(self) -> None:
        self.stats = WireStats()
        self.buffered_bytes = 0
        self.unary: dict[bytes, tuple[str, UnaryHandler]] = {}
        self.stream: dict[bytes, tuple[str, StreamHandler]] = {}
        self.limits = Limits()
        self._connections: dict[Http2Connection, Calls] = {}
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event | None = None
        self._is_draining = False
        self._buffer = receive_buffer()
        self._tls: TlsFiles | None = None
        self._peers: Counter[str] = Counter()
        self.express: tuple[bytes, Any] | None = None

    async def start(
        self,
        *,
        host: str,
        port: int,
        handlers: Handlers,
        limits: Limits,
        tls: Tls | None = None,
        before_flush: Callable[[], None] | None = None,
        reuse_port: bool = False,
        listeners: Sequence[socket.socket] | None = None,
    ) -> int:
        """Serve."""
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.unary = {name.encode("ascii"): (name, handler) for name, handler in handlers.unary.items()}
        self.stream = {name.encode("ascii"): (name, handler) for name, handler in handlers.stream.items()}
        self.express = next(((name.encode("ascii"), table) for name, table in handlers.express.items()), None)
        self.flusher = Flusher(self.loop, before_flush, self.stats)
        self.wheel = DeadlineWheel(self.loop)
        self._is_draining = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._tls = None if tls is None else TlsFiles(tls)
        if listeners is None:
            listeners = await bind(self.loop, host, port, reuse_port)
        listen(listeners)
        bound_port = int(listeners[0].getsockname()[1])
        try:
            for listener in listeners:
                self._servers.append(
                    await self.loop.create_server(
                        self._accept, sock=listener, backlog=BACKLOG, **self._secure()
                    )
                )
        except BaseException:
            await self.close()
            raise
        self._sweep()
        return bound_port

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that another process accepted."""
        await self.loop.connect_accepted_socket(self._accept, connection, **self._secure())

    async def drain(self, grace_s: float) -> None:
        """Take no further calls, let those in flight end, then close."""
        self._is_draining = True
        self._stop_listening()
        for connection in list(self._connections):
            connection.give_notice()
        assert self._empty is not None
        # Connections that were just accepted announce themselves, after their TLS handshake where there is one.
        await asyncio.sleep(0 if self._tls is None else min(grace_s, _HANDSHAKES_S))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), grace_s)
        for connection, calls in list(self._connections.items()):
            calls.end_all(Status.UNAVAILABLE, "the server is shutting down")
            connection.give_notice()
            connection.refuse_further()
        if self._connections:
            # What was just queued leaves at the end of this turn.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await self.close()

    async def close(self) -> None:
        """Close every connection now."""
        self._stop_listening()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self._connections):
            connection.close()
        if self._empty is not None and self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), 1.0)
        for connection in list(self._connections):
            connection.abort()
        if self._empty is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), 1.0)
            self.wheel.close()

    def forget(self, connection: Http2Connection) -> None:
        """A connection is gone."""
        if self._connections.pop(connection, None) is not None:
            host = _host(connection)
            self._peers[host] -= 1
            if not self._peers[host]:
                del self._peers[host]
        if not self._connections and self._empty is not None:
            self._empty.set()

    def _accept(self) -> Http2Connection:
        connection = Http2Connection(
            loop=self.loop,
            limits=self.limits,
            flusher=self.flusher,
            stats=self.stats,
            buffer=self._buffer,
            unary=self.unary,
        )
        connection.receiver = GrpcConnection(self, connection)
        return connection

    def remember(self, connection: Http2Connection, calls: Calls) -> bool:
        """Tell whether there is room for a connection, and keep it."""
        host = _host(connection)
        if len(self._connections) >= self.limits.max_connections:
            self.stats.connections_refused += 1
            return False
        if self._peers[host] >= self.limits.max_connections_per_peer:
            self.stats.connections_refused += 1
            self.stats.peers_refused += 1
            return False
        self._peers[host] += 1
        if self._is_draining:
            # Accepted in the turn in which listening ended, or late with its TLS: its client is sent elsewhere, which
            # costs it no request; a connection that is cut would.
            connection.give_notice()
        self.stats.connections += 1
        assert self._empty is not None
        self._empty.clear()
        self._connections[connection] = calls
        if self.express is not None:
            path, table = self.express
            connection.join(table, path, (connection.peer_identity or "").encode())
        return True

    def _secure(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {"ssl": self._tls.context, "ssl_handshake_timeout": self.limits.handshake_timeout_s}

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self._connections):
            connection.check(now)
        if self._tls is not None:
            self._tls.follow()
        limits = self.limits
        shortest = min(
            limits.handshake_timeout_s, limits.keepalive_s, limits.keepalive_timeout_s, limits.write_stall_s
        )
        self._sweeper = self.loop.call_later(min(1.0, shortest / 4), self._sweep)

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()


def _host(connection: Http2Connection) -> str:
    """A client's address without its port."""
    return connection.peer.rpartition(":")[0]
