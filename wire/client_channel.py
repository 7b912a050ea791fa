"""The channel: calls spread over a few connections to one server, which open when calls need them.

A call goes to the connection with the fewest open calls. Where all are full, or none is open yet, it waits, and a
connection opens if one more is allowed. An attempt that fails with none open ends the calls that wait; for a while, which
doubles from failure to failure, further calls end at once.
"""

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from anabranch.wire.client import ChannelLimits, ChannelStats, ClientTls, Done, Target
from anabranch.wire.client_calls import Fields, OutgoingCall, UnaryCall
from anabranch.wire.client_connect import Backoff, client_context, connect, reason_of
from anabranch.wire.client_connection import ClientConnection
from anabranch.wire.client_framing import request_headers
from anabranch.wire.client_streams import StreamingCall
from anabranch.wire.deadlines import DeadlineWheel
from anabranch.wire.express import PlainUpstream, Table, Upstream
from anabranch.wire.flush import Flusher
from anabranch.wire.grpc_framing import encode_metadata
from anabranch.wire.http2_client import Http2ClientConnection
from anabranch.wire.http2_socket import receive_buffer
from anabranch.wire.seam import Metadata, Status, WireStats

_USER_AGENT: Final = "grpc-python-anabranch"
_CLOSE_S: Final = 1.0
# Methods are the program's own words; the bound only keeps a mistake from growing the process.
_MAX_METHODS: Final = 1024


class GrpcChannel:
    """Connections to one server; see `anabranch.wire.client.Channel`. Made on the event loop that runs it.

    Args:
        target: The server.
        limits: How it is used.
        tls: Absent: plain text.
        draw: Gives uniform numbers in [0, 1), for the pauses between attempts.

    Raises:
        OSError: A file of `tls` cannot be read, or holds no certificate or key.
    """

    def __init__(
        self,
        target: Target,
        *,
        limits: ChannelLimits | None = None,
        tls: ClientTls | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.target = target
        self.limits = limits = limits or ChannelLimits()
        self.loop = asyncio.get_running_loop()
        self.stats = ChannelStats()
        self.socket_stats = WireStats()
        self.wheel = DeadlineWheel(self.loop)
        self.buffered_bytes = 0
        self.open_calls = 0
        self._tls = None if tls is None else client_context(tls)
        self._authority = str(target)
        self._server_name = (tls.server_name if tls is not None else None) or target.host
        self._fixed: dict[str, Fields] = {}
        self._flusher = Flusher(self.loop, None, self.socket_stats)
        self._buffer = receive_buffer()
        self._backoff = Backoff(limits.backoff_first_s, limits.backoff_max_s, draw)
        self._failure = ""
        self._keepalive_s = limits.keepalive_s
        self._ready: list[ClientConnection] = []
        self._connections: set[ClientConnection] = set()
        self._attempts: dict[ClientConnection, asyncio.Task[None]] = {}
        self._pending: OrderedDict[OutgoingCall, None] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event | None = None
        self._is_closed = False
        self._upstream: Upstream = PlainUpstream()
        self._table: Table | None = None

    def join(self, upstream: Upstream, table: Table | None) -> None:
        """Let the express path use the connections; before any is made.

        Args:
            upstream: Learns of them.
            table: What requests are looked up in; None: there is no such path.
        """
        self._upstream, self._table = upstream, table

    def fixed(self, method: str) -> Fields:
        """The headers that all calls of a method have in common."""
        return self._fixed.get(method) or self._fix(method)

    @property
    def writable(self) -> bool:
        """A further call would be sent at once."""
        return not self._pending and self.buffered_bytes <= self.limits.max_buffered_bytes // 2

    # From callers.

    def unary(
        self,
        method: str,
        message: bytes,
        *,
        done: Done,
        tail: bytes = b"",
        metadata: Metadata = (),
        deadline: float | None = None,
    ) -> UnaryCall:
        """Begin a call."""
        fixed = self.fixed(method)
        extra = encode_metadata(metadata) if metadata else ()
        call = UnaryCall(self, fixed, extra, message, tail, done, deadline)
        self._admit(call)
        return call

    def stream(
        self,
        method: str,
        *,
        on_message: Callable[[bytes], None],
        on_end: Done,
        on_start: Callable[[Metadata], None] | None = None,
        on_drain: Callable[[], None] | None = None,
        metadata: Metadata = (),
        deadline: float | None = None,
    ) -> StreamingCall:
        """Begin a streaming call."""
        fixed = self.fixed(method)
        call = StreamingCall(
            self,
            self.loop,
            fixed,
            encode_metadata(metadata),
            on_end,
            deadline,
            on_message=on_message,
            on_start=on_start,
            on_drain=on_drain,
        )
        self._admit(call)
        return call

    def take_over(
        self,
        method: str,
        message: bytes,
        tail: bytes,
        extra: Fields,
        connection: ClientConnection,
        stream_id: int,
        *,
        done: Done,
        deadline: float | None,
    ) -> UnaryCall:
        """Go on with a call that the express path has sent on a connection."""
        call = UnaryCall(self, self.fixed(method), extra, message, tail, done, deadline)
        self.stats.calls += 1
        if deadline is not None:
            call.tick = self.wheel.add(call, deadline)
        connection.take_over(call, stream_id)
        return call

    async def ready(self, timeout_s: float) -> None:
        """Wait for the first connections, attempt after attempt."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._ready) < self.limits.min_connections:
                    self._fill()
                    if self._attempts:
                        await asyncio.wait(self._attempts.values(), return_when=asyncio.FIRST_COMPLETED)
                    else:
                        await asyncio.sleep(max(0.0, self._backoff.retry_at - self.loop.time()))
        except TimeoutError:
            why = self._failure or "no attempt has ended"
            raise TimeoutError(
                f"{len(self._ready)} of {self.limits.min_connections} connections to {self.target} "
                f"are open after {timeout_s:g} s: {why}"
            ) from None

    async def close(self) -> None:
        """Close every connection; calls in flight end with CANCELLED."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        attempts = list(self._attempts.values())
        for attempt in attempts:
            attempt.cancel()
        self._end_pending(Status.CANCELLED, "the channel was closed")
        self._ready.clear()
        self._empty = asyncio.Event()
        for connection in list(self._connections):
            self._retire(connection)
            connection.end_all(Status.CANCELLED, "the channel was closed")
            connection.http2.finish()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), _CLOSE_S)
        for connection in list(self._connections):
            connection.http2.abort()
        await asyncio.gather(*attempts, return_exceptions=True)
        self.wheel.close()

    # From calls and connections.

    def submit(self, call: OutgoingCall) -> None:
        """Send a call, or have it wait."""
        if not self._pending:
            connection = self._pick()
            while connection is not None:
                if connection.begin(call):
                    if len(self._ready) < self.limits.min_connections:
                        self._fill()
                    return
                # Out of stream numbers, or ending: what is open on it ends there.
                self._retire(connection)
                connection = self._pick()
        self._enqueue(call)

    def forget(self, call: OutgoingCall) -> None:
        """A call that waited for a connection has ended."""
        self._pending.pop(call, None)

    def opened(self, connection: ClientConnection) -> None:
        """Use a connection."""
        self._ready.append(connection)
        connection.http2.use(self._upstream, connection.max_streams)
        self.stats.connections += 1
        self.has_room()

    def resized(self, connection: ClientConnection) -> None:
        """Use a connection for another number of calls at once."""
        connection.http2.use(self._upstream, connection.max_streams)

    def leaving(self, connection: ClientConnection, too_many_pings: bool) -> None:
        """Use a connection no more."""
        if too_many_pings:
            self._keepalive_s *= 2
        self._retire(connection)
        self._attend()

    def lost(self, connection: ClientConnection, reason: str, open_calls: int) -> None:
        """Forget a connection."""
        # A server that greets and then answers nothing is no better than one that cannot be reached.
        has_failed = not (connection.served or connection.is_leaving)
        self._retire(connection)
        self._discard(connection)
        if connection in self._attempts or self._is_closed:
            # Whoever waits for the greeting learns of it.
            return
        self.stats.connections_lost += open_calls > 0
        if has_failed:
            self._failed(reason)
        else:
            self._backoff.succeeded()
        self._attend()

    def leave_express(self, connection: ClientConnection) -> None:
        """Have what the express path has on a connection go on as calls, and no more go there."""
        connection.http2.disuse(self._upstream)
        if self._table is not None:
            connection.http2.leave(self._table)

    def has_room(self) -> None:
        """Send calls that wait."""
        while self._pending:
            connection = self._pick()
            if connection is None:
                self._attend()
                return
            call, _ = self._pending.popitem(last=False)
            if not connection.begin(call):
                self._retire(connection)
                self._pending[call] = None
                self._pending.move_to_end(call, last=False)

    # Own.

    def _admit(self, call: OutgoingCall) -> None:
        """Begin a call that the limits allow."""
        self.stats.calls += 1
        if call.deadline is not None:
            call.tick = self.wheel.add(call, call.deadline)
        limit = self.limits.max_buffered_bytes
        if self.buffered_bytes > limit:
            self._refuse(
                call,
                f"requests in flight hold {self.buffered_bytes} bytes, the limit is {limit}: try again later",
            )
        else:
            self.submit(call)

    def _pick(self) -> ClientConnection | None:
        """Return the connection with the fewest open streams that has room for one more."""
        best = None
        fewest = 1 << 31
        for connection in self._ready:
            open_streams = connection.open_streams + connection.http2.crossings
            if open_streams < fewest and open_streams < connection.max_streams:
                best, fewest = connection, open_streams
        return best

    def _enqueue(self, call: OutgoingCall) -> None:
        """Have a call wait for a connection, or for room on one."""
        limit = self.limits.max_pending
        if self._is_closed:
            self.loop.call_soon(call.fail, Status.CANCELLED, "the channel is closed")
        elif len(self._pending) >= limit:
            self._refuse(call, f"{limit} calls wait for {self.target} already: try again later")
        else:
            self._pending[call] = None
            self._fill()
            if not (self._ready or self._attempts):
                del self._pending[call]
                wait_s = self._backoff.retry_at - self.loop.time()
                self._refuse(
                    call,
                    f"cannot reach {self.target}: {self._failure}; the next attempt is in {wait_s:.1f} s",
                )

    def _refuse(self, call: OutgoingCall, text: str) -> None:
        self.stats.refused += 1
        # Never from within the caller's own call.
        self.loop.call_soon(call.fail, Status.UNAVAILABLE, text)

    def _retire(self, connection: ClientConnection) -> None:
        """Send no further calls on a connection."""
        connection.is_leaving = True
        self.leave_express(connection)
        with contextlib.suppress(ValueError):
            self._ready.remove(connection)

    def _fill(self) -> None:
        """Open connections up to the minimum, and one more where all are full."""
        if self._is_closed or self.loop.time() < self._backoff.retry_at:
            return
        have = len(self._ready) + len(self._attempts)
        wanted = self.limits.min_connections
        if self._pending and not self._attempts and have >= wanted:
            wanted = min(self.limits.max_connections, have + 1)
        for _ in range(wanted - have):
            self._begin_attempt()

    def _begin_attempt(self) -> None:
        http2 = Http2ClientConnection(
            loop=self.loop,
            limits=self.limits,
            flusher=self._flusher,
            stats=self.socket_stats,
            buffer=self._buffer,
        )
        connection = ClientConnection(self, http2)
        http2.receiver = connection
        http2.join()
        self._connections.add(connection)
        self._attempts[connection] = self.loop.create_task(self._attempt(connection))
        if self._sweeper is None:
            self._sweep()

    async def _attempt(self, connection: ClientConnection) -> None:
        """Connect, and wait for the server's greeting."""
        timeout_s = self.limits.connect_timeout_s
        target = self.target
        try:
            async with asyncio.timeout(timeout_s):
                await connect(
                    self.loop, connection.http2, target.host, target.port, self._tls, self._server_name
                )
                reason = await connection.greeting
        except (OSError, ValueError) as error:
            reason = reason_of(error, timeout_s)
        finally:
            del self._attempts[connection]
            if not connection.is_open:
                connection.http2.abort()
                self._discard(connection)
        if not reason and connection not in self._connections:
            reason = "the server closed the connection at once"
        if reason:
            self._failed(reason)
        self._attend()

    def _failed(self, reason: str) -> None:
        """Pause, and end the calls that would wait for nothing."""
        self._failure = reason
        self.stats.connections_failed += 1
        self._backoff.failed(self.loop.time())

    def _attend(self) -> None:
        """Open connections for calls that wait; where none can come, end them."""
        if not self._pending:
            return
        self._fill()
        if not (self._ready or self._attempts):
            self._end_pending(Status.UNAVAILABLE, f"cannot reach {self.target}: {self._failure}")

    def _end_pending(self, status: Status, text: str) -> None:
        pending, self._pending = self._pending, OrderedDict()
        for call in pending:
            call.fail(status, text)

    def _discard(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        if self._empty is not None and not self._connections:
            self._empty.set()

    def _sweep(self) -> None:
        """Look for connections that have stalled."""
        now = self.loop.time()
        for connection in list(self._connections):
            connection.http2.check(now, self._keepalive_s)
        limits = self.limits
        shortest = min(self._keepalive_s, limits.keepalive_timeout_s, limits.write_stall_s)
        self._sweeper = (
            self.loop.call_later(min(1.0, shortest / 4), self._sweep) if self._connections else None
        )

    def _fix(self, method: str) -> Fields:
        """Return the headers that all calls of a method have in common."""
        scheme = "http" if self._tls is None else "https"
        headers = request_headers(method, self._authority, scheme, _USER_AGENT)
        if len(self._fixed) < _MAX_METHODS:
            self._fixed[method] = headers
        return headers
