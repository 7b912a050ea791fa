"""The calls of the grpcio wire: the seam's callbacks over grpc.aio's coroutines."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

import grpc
import grpc.aio

from anabranch.wire.calls import ServedCall
from anabranch.wire.flush import Flusher
from anabranch.wire.grpc_framing import encode_metadata
from anabranch.wire.peer_identity import properties_identity
from anabranch.wire.seam import Metadata, Status, StreamHandler, UnaryHandler, WireStats

Context = grpc.aio.ServicerContext[bytes, bytes]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Shared(Protocol):
    """What all calls of a wire share."""

    flusher: Flusher
    stats: WireStats
    stream_limit_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a call ends.

    Args:
        status: OK with a message, else an error.
        text: The error's text.
        message: The last message, for a unary call.
        metadata: Initial metadata.
        trailing: Trailing metadata.
    """

    status: Status
    text: str = ""
    message: bytes = b""
    metadata: Metadata = ()
    trailing: Metadata = ()


class GrpcioCall(ServedCall):
    """A unary call; see `anabranch.wire.seam.Call`."""

    __slots__ = ("_context", "_ending", "_released", "_wire")

    def __init__(self, wire: Shared, method: str, context: Context) -> None:
        super().__init__(method, wire.stats)
        self._wire = wire
        self._context = context
        self._ending: Ending | None = None
        self._released: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def metadata(self) -> Metadata:
        """The request's metadata."""
        return [(str(name), value) for name, value in self._context.invocation_metadata() or ()]

    @property
    def peer(self) -> str:
        """The client's address."""
        return unquote(self._context.peer())

    @property
    def peer_identity(self) -> str | None:
        """The client's name by its certificate."""
        return properties_identity(self._context.auth_context())

    def reply(
        self, message: bytes, metadata: Metadata = (), trailing: Metadata = (), tail: bytes = b""
    ) -> None:
        """End the call with OK."""
        self._end(Ending(status=Status.OK, message=message + tail, metadata=metadata, trailing=trailing))

    def fail(self, status: Status, message: str, metadata: Metadata = ()) -> None:
        """End the call with an error."""
        self._end(Ending(status=status, text=message, trailing=metadata))

    def _end(self, ending: Ending) -> None:
        if self.ended:
            return
        # Refuses, here and not later, what cannot be sent.
        encode_metadata((*ending.metadata, *ending.trailing))
        self.ended = True
        self._callbacks = None
        self._ending = ending
        self._wire.flusher.replied = True
        self._wire.flusher.mark(self)

    def write_out(self) -> None:
        """Let the answer go."""
        if not self._released.done():
            self._released.set_result(None)

    def after_write(self) -> None:
        """Nothing follows."""

    async def run(self, handler: UnaryHandler, request: bytes) -> bytes:
        """Serve the call; the coroutine that grpc.aio runs."""
        try:
            handler(self, request)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises ends its call alone
            self.guard(error)
        try:
            await self._released
        except asyncio.CancelledError:
            self.abandon()
            raise
        ending = self._ending
        assert ending is not None
        if ending.metadata:
            await self._context.send_initial_metadata(_pairs(ending.metadata))
        await _finish(self._context, ending)
        return ending.message


class GrpcioStreamCall(GrpcioCall):
    """A streaming call; see `anabranch.wire.seam.StreamCall`."""

    __slots__ = (
        "_blocked",
        "_gate",
        "_half_close",
        "_initial",
        "_marked",
        "_message",
        "_on_drain",
        "_outbox",
        "_paused",
        "_queued",
        "_queued_bytes",
        "_wakeup",
    )

    def __init__(self, wire: Shared, method: str, context: Context) -> None:
        super().__init__(wire, method, context)
        self._blocked = False
        self._paused = False
        self._marked = False
        self._initial: Metadata | None = None
        # What was sent in this turn, and what may leave.
        self._queued: list[bytes] = []
        self._outbox: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wakeup = asyncio.Event()
        self._gate = asyncio.Event()
        self._message: Callable[[bytes], None] | None = None
        self._half_close: Callable[[], None] | None = None
        self._on_drain: Callable[[], None] | None = None

    @property
    def writable(self) -> bool:
        """The client keeps up."""
        return not self._blocked

    def on_message(self, callback: Callable[[bytes], None]) -> None:
        """Deliver messages."""
        self._message = callback
        self._open_gate()

    def on_half_close(self, callback: Callable[[], None]) -> None:
        """Tell of the end of the client's messages."""
        self._half_close = callback

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Tell when the call is writable again."""
        self._on_drain = callback

    def start(self, metadata: Metadata = ()) -> None:
        """Send the initial metadata."""
        if self._initial is None and not self.ended:
            encode_metadata(metadata)
            self._initial = metadata
            self._mark()

    def send(self, message: bytes) -> None:
        """Send one message."""
        if self.ended:
            return
        self._queued.append(message)
        self._queued_bytes += len(message)
        if self._queued_bytes > self._wire.stream_limit_bytes:
            self._blocked = True
            self._gate.clear()
        self._mark()

    def finish(self, status: Status = Status.OK, message: str = "", trailing: Metadata = ()) -> None:
        """End the call after the messages already sent."""
        self._end(Ending(status=status, text=message, trailing=trailing))

    def reply(
        self, message: bytes, metadata: Metadata = (), trailing: Metadata = (), tail: bytes = b""
    ) -> None:
        """Send one message and end the call with OK."""
        self.start(metadata)
        self.send(message + tail)
        self.finish(trailing=trailing)

    def fail(self, status: Status, message: str, metadata: Metadata = ()) -> None:
        """End the call with an error."""
        self.finish(status, message, metadata)

    def pause(self) -> None:
        """Take no further messages."""
        self._paused = True
        self._gate.clear()

    def resume(self) -> None:
        """Take messages again."""
        self._paused = False
        self._open_gate()

    def write_out(self) -> None:
        """Let what was sent in this turn go."""
        self._marked = False
        self._outbox.extend(self._queued)
        self._queued.clear()
        if self._ending is not None:
            super().write_out()
        self._wakeup.set()

    async def run_stream(self, handler: StreamHandler) -> None:
        """Serve the call; the coroutine that grpc.aio runs."""
        reader = asyncio.get_running_loop().create_task(self._read())
        try:
            handler(self)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises ends its call alone
            self.guard(error)
        try:
            await self._write()
        except grpc.aio.AbortError:
            raise
        except grpc.aio.BaseError:
            # A write that fails means that the client is gone; grpcio cancels this coroutine only where none waits.
            pass
        finally:
            self.abandon()
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader
            self._message = self._half_close = self._on_drain = None

    async def _write(self) -> None:
        """Write until the call has ended."""
        begun = False
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            if self._initial and not begun:
                await self._context.send_initial_metadata(_pairs(self._initial))
            begun = begun or self._initial is not None
            while self._outbox:
                message = self._outbox.popleft()
                await self._context.write(message)
                self._queued_bytes -= len(message)
                self._drain()
            if self._ending is not None and self._released.done():
                await _finish(self._context, self._ending)
                return

    async def _read(self) -> None:
        """Read until the client's last message."""
        while not self.ended:
            await self._gate.wait()
            try:
                message: Any = await self._context.read()
            except grpc.aio.BaseError:
                return
            if message is grpc.aio.EOF:
                break
            await self._gate.wait()
            self._call(self._message, message)
        if not self.ended:
            self._call(self._half_close)

    def _drain(self) -> None:
        if self._blocked and not self.ended and self._queued_bytes <= self._wire.stream_limit_bytes // 2:
            self._blocked = False
            self._open_gate()
            self._call(self._on_drain)

    def _call(self, callback: Callable[..., None] | None, *arguments: bytes) -> None:
        if callback is None or self.ended:
            return
        try:
            callback(*arguments)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises ends its call alone
            self.guard(error)

    def _open_gate(self) -> None:
        if self._message is not None and not self._paused and not self._blocked:
            self._gate.set()

    def _mark(self) -> None:
        self._wire.flusher.replied = True
        if not self._marked:
            self._marked = True
            self._wire.flusher.mark(self)

    def _end(self, ending: Ending) -> None:
        if self.ended:
            return
        encode_metadata((*ending.metadata, *ending.trailing))
        self.ended = True
        self._callbacks = None
        self._ending = ending
        self._mark()


def _pairs(metadata: Metadata) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((name, value) for name, value in metadata)


async def _finish(context: Context, ending: Ending) -> None:
    """Send the status.

    Raises:
        grpc.aio.AbortError: Always, for an error: grpc.aio ends a call by it.
    """
    if ending.status is not Status.OK:
        await context.abort(_CODES[ending.status], ending.text, _pairs(ending.trailing))
    if ending.trailing:
        context.set_trailing_metadata(_pairs(ending.trailing))
