"""What the tests of the wire's client share: channels whose calls can be awaited, and servers that misbehave."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import ngh2
import pytest

from anabranch.wire import engine
from anabranch.wire.client import Channel, ChannelLimits, ClientCall, ClientTls, Reply, Target
from anabranch.wire.client_channel import GrpcChannel


@pytest.fixture(autouse=True, params=["the default engine", "the plain engine"])
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "the plain engine":
        monkeypatch.setattr(engine, "native", lambda: None)


class Caller:
    """A channel whose calls can be awaited; when it closes, nothing of any call is left."""

    def __init__(
        self, port: int, *, tls: ClientTls | None = None, host: str = "127.0.0.1", **limits: Any
    ) -> None:
        self.target = Target(host, port)
        self.tls = tls
        self.limits = ChannelLimits(**limits)
        self.channel: Channel

    async def __aenter__(self) -> "Caller":
        self.channel = GrpcChannel(self.target, limits=self.limits, tls=self.tls, draw=lambda: 0.5)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        # Callbacks that were put off run before anything is counted.
        await asyncio.sleep(0)
        assert self.channel.open_calls == 0
        assert vars(self.channel)["buffered_bytes"] == 0

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def start(
        self, name: str, message: bytes = b"", *, timeout_s: float | None = 20, **options: Any
    ) -> "tuple[ClientCall, asyncio.Future[Reply]]":
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        deadline = None if timeout_s is None else self.now + timeout_s
        # A second reply would raise here.
        call = self.channel.unary(
            f"/test.Wire/{name}", message, done=future.set_result, deadline=deadline, **options
        )
        assert not future.done()
        return call, future

    async def call(self, name: str, message: bytes = b"", **options: Any) -> Reply:
        return await self.start(name, message, **options)[1]


class FakeConnection(asyncio.Protocol):
    """A server's end of a connection, which does what a test's script says."""

    def __init__(self, script: Callable[["FakeConnection", Any], None], settings: dict[int, int]) -> None:
        self.script = script
        self.engine = ngh2.Connection(ngh2.Role.SERVER)
        self.settings = settings
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.engine.initiate_connection(self.settings)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.engine.receive_data(data)
        for event in self.engine.events():
            self.script(self, event)
        self.flush()

    def flush(self) -> None:
        if data := self.engine.data_to_send():
            self.transport.write(data)

    def answer(self, stream_id: int, headers: list[tuple[bytes, bytes]], body: bytes | None = None) -> None:
        """Answer without trailers."""
        self.engine.send_response(stream_id, headers, end_stream=body is None)
        if body is not None:
            self.engine.send_data(stream_id, body, end_stream=True)

    def answer_ok(self, stream_id: int, *parts: bytes) -> None:
        """Answer with OK and these bytes."""
        self.engine.send_response(stream_id, [(b":status", b"200"), (b"content-type", b"application/grpc")])
        for part in parts:
            self.engine.send_data(stream_id, part)
        self.engine.send_trailers(stream_id, [(b"grpc-status", b"0")])


@pytest.fixture
def calling() -> type[Caller]:
    """Open a channel: `async with calling(port) as client`."""
    return Caller


@pytest.fixture
def faking() -> Callable[..., Any]:
    """Run a server by a script: `async with faking(script) as port`; the script gets each connection and event."""

    @asynccontextmanager
    async def serve(script: Callable[[FakeConnection, Any], None], **settings: int) -> AsyncIterator[int]:
        given = {int(ngh2.Setting[name]): value for name, value in settings.items()}
        server = await asyncio.get_running_loop().create_server(
            lambda: FakeConnection(script, given), "127.0.0.1", 0
        )
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    return serve


@pytest.fixture
def answering() -> Callable[..., Any]:
    """Run a server that answers every connection with the same bytes, whatever it is sent."""

    @asynccontextmanager
    async def serve(data: bytes, *, close: bool = False) -> AsyncIterator[int]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(data)
            if close:
                writer.close()
                return
            while await reader.read(1 << 16):
                pass
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    return serve
