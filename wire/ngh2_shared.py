"""What the connections of a fast wire have in common."""

import asyncio
from typing import Protocol

from anabranch.wire.deadlines import DeadlineWheel
from anabranch.wire.express import Table
from anabranch.wire.flush import Flusher
from anabranch.wire.http2 import Http2Connection, Receiver
from anabranch.wire.seam import Limits, Status, StreamHandler, UnaryHandler, WireStats


class Calls(Receiver, Protocol):
    """The calls of one connection."""

    def end_all(self, status: Status, message: str) -> None:
        """End every call."""


class Shared(Protocol):
    """What all connections of a wire share."""

    limits: Limits
    stats: WireStats
    flusher: Flusher
    wheel: DeadlineWheel
    loop: asyncio.AbstractEventLoop
    unary: dict[bytes, tuple[str, UnaryHandler]]
    stream: dict[bytes, tuple[str, StreamHandler]]
    buffered_bytes: int
    express: tuple[bytes, Table] | None
    """A method, and the table that its requests are looked up in."""

    def remember(self, connection: Http2Connection, calls: Calls) -> bool:
        """Tell whether there is room for a connection, and keep it."""

    def forget(self, connection: Http2Connection) -> None:
        """A connection is gone."""
