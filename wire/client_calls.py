"""The calls of a channel: from a request to the one reply that ends it."""

import logging
from collections.abc import Sequence
from typing import ClassVar, Final, Protocol

from anabranch.wire.client import ChannelLimits, ChannelStats, Done, Origin, Reply
from anabranch.wire.client_framing import read_status
from anabranch.wire.deadlines import DeadlineWheel
from anabranch.wire.grpc_framing import Headers, MessageReader
from anabranch.wire.seam import Status

logger = logging.getLogger(__name__)

# A call that no server has looked at is sent again so often, for a server that leaves all of its connections at once.
RETRIES: Final = 3
_OK: Final = ((b"grpc-status", b"0"),)
_CALLBACK_FAILED: Final = "the callback of a call that ended with %s failed"

Fields = Sequence[tuple[bytes, bytes]]


class CallChannel(Protocol):
    """What a call needs of its channel."""

    limits: ChannelLimits
    stats: ChannelStats
    wheel: DeadlineWheel
    buffered_bytes: int
    open_calls: int

    def forget(self, call: "OutgoingCall") -> None:
        """A call that waited for a connection has ended."""


class CallConnection(Protocol):
    """What a call needs of the connection it was sent on."""

    def abandon(self, call: "OutgoingCall") -> None:
        """Reset the call's stream."""


class OutgoingCall:
    """The life of one call; both kinds of call set its attributes themselves, as a call less saves time a request."""

    __slots__ = (
        "channel",
        "connection",
        "deadline",
        "done",
        "ended",
        "extra",
        "fixed",
        "headers",
        "held_bytes",
        "reader",
        "retries_left",
        "stream_id",
        "tick",
        "trailers",
    )

    streams: ClassVar[bool]

    channel: CallChannel
    connection: CallConnection | None
    deadline: float | None
    done: Done
    ended: bool
    extra: Fields
    fixed: Fields
    headers: Headers | None
    held_bytes: int
    reader: MessageReader | None
    retries_left: int
    stream_id: int
    tick: int
    trailers: Headers | None

    def cancel(self) -> None:
        """End the call and tell the server."""
        if not self.ended:
            self.channel.stats.cancelled += 1
            self._leave()

    def expire(self) -> None:
        """End the call at its deadline."""
        if not self.ended:
            self.channel.stats.deadline_exceeded += 1
            self.fail(Status.DEADLINE_EXCEEDED, "the call's deadline has passed")

    def fail(self, status: Status, text: str) -> None:
        """End the call without the server's answer."""
        if self.ended:
            return
        reply = Reply(status, text, b"", self.headers or (), (), Origin.CLIENT)
        done = self.done
        self._leave()
        call_back(done, reply)

    def lose(self, status: Status, text: str) -> None:
        """End the call, whose connection is gone."""
        self.connection = None
        self.fail(status, text)

    def finish(self, reply: Reply) -> None:
        """End the call, whose stream is over."""
        done = self.done
        self._end()
        call_back(done, reply)

    def complete(self) -> None:
        """End the call with the response that is whole."""
        raise NotImplementedError

    def hold(self, size_bytes: int) -> None:
        """Count what is kept for the call against the channel's limit."""
        self.channel.buffered_bytes += size_bytes - self.held_bytes
        self.held_bytes = size_bytes

    def _leave(self) -> None:
        """End before the server does."""
        connection, self.connection = self.connection, None
        self._end()
        if connection is not None:
            connection.abandon(self)
        else:
            self.channel.forget(self)

    def _end(self) -> None:
        self.ended = True
        channel = self.channel
        channel.open_calls -= 1
        channel.buffered_bytes -= self.held_bytes
        self.held_bytes = 0
        if self.deadline is not None:
            channel.wheel.discard(self, self.tick)
        # Whoever keeps the call would keep what the callback holds, often the call itself.
        self.done = _ignore


class UnaryCall(OutgoingCall):
    """A unary call; see `anabranch.wire.client.ClientCall`.

    Args:
        channel: Where it was begun.
        fixed: The headers that all calls of the method have in common.
        extra: The metadata's.
        message: The request; kept, as it may have to be sent again.
        tail: The rest of it.
        done: Takes the reply.
        deadline: On the loop's clock.
    """

    __slots__ = ("body", "message", "tail")

    streams: ClassVar[bool] = False

    def __init__(
        self,
        channel: CallChannel,
        fixed: Fields,
        extra: Fields,
        message: bytes,
        tail: bytes,
        done: Done,
        deadline: float | None,
    ) -> None:
        self.channel = channel
        self.fixed = fixed
        self.extra = extra
        self.message = message
        self.tail = tail
        self.done = done
        self.deadline = deadline
        self.connection = None
        self.stream_id = self.tick = 0
        self.ended = False
        self.headers = self.trailers = self.reader = None
        self.body: bytes | None = None
        self.retries_left = RETRIES
        self.held_bytes = size = len(message) + len(tail)
        channel.buffered_bytes += size
        channel.open_calls += 1

    def complete(self) -> None:
        """End the call with the response that is whole."""
        trailers, body = self.trailers or (), self.body
        if trailers == _OK and body is not None and self.reader is None:
            self.finish(Reply(Status.OK, "", body, self.headers or (), trailers))
            return
        status, text = read_status(trailers)
        if status is Status.OK:
            if self.reader is not None and self.reader.buffered_bytes:
                status, text = Status.INTERNAL, "the response ended before its message did"
            elif body is None:
                status, text = Status.INTERNAL, "the server answered OK without a message"
        given = body if status is Status.OK and body is not None else b""
        self.finish(Reply(status, text, given, self.headers or (), trailers))

    def finish(self, reply: Reply) -> None:
        """End the call, whose stream is over: as `_end` does, in one step, as every call comes through here."""
        self.ended = True
        channel = self.channel
        channel.open_calls -= 1
        channel.buffered_bytes -= self.held_bytes
        if self.deadline is not None:
            channel.wheel.discard(self, self.tick)
        done = self.done
        self.held_bytes = 0
        self.done = _ignore
        self.message = b""
        self.body = None
        try:
            done(reply)
        except Exception:
            logger.exception(_CALLBACK_FAILED, reply.status.name)

    def _end(self) -> None:
        super()._end()
        self.message = b""
        self.body = None


def call_back(callback: Done, reply: Reply) -> None:
    """Hand a reply over; what the callback raises is logged, and harms no other call."""
    try:
        callback(reply)
    except Exception:
        logger.exception(_CALLBACK_FAILED, reply.status.name)


def _ignore(reply: Reply) -> None:
    """Take nothing: the call has ended."""
