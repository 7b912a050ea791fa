"""Servers of both wires, each in a process of its own, and what the suite's clients share."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import grpc
import ngh2
import psutil
import pytest

# The first runs what is compiled, where something is.
_PLAIN = "ngh2 on Python alone"
_WIRES = ("ngh2", _PLAIN, "grpcio")


class RunningServer:
    """A server process and a client of it."""

    def __init__(self, wire: str, **settings: Any) -> None:
        environment = {**os.environ, "ANABRANCH_NATIVE": "off"} if wire == _PLAIN else None
        wire = wire.split()[0]
        self.wire = wire
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("wire_server.py")),
                json.dumps({"wire": wire, **settings}),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.address = f"127.0.0.1:{self.port}"
        self._channel: grpc.Channel | None = None

    @property
    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = self.new_channel()
        return self._channel

    def new_channel(self) -> grpc.Channel:
        # A connection of its own, not one shared by the process.
        return grpc.insecure_channel(
            self.address,
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)],
        )

    def unary(self, name: str) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
        return cast(
            "grpc.UnaryUnaryMultiCallable[bytes, bytes]", self.channel.unary_unary(f"/test.Wire/{name}")
        )

    def stream(self, name: str) -> "grpc.StreamStreamMultiCallable[bytes, bytes]":
        return cast(
            "grpc.StreamStreamMultiCallable[bytes, bytes]", self.channel.stream_stream(f"/test.Wire/{name}")
        )

    def call(self, name: str, message: bytes = b"", **options: Any) -> bytes:
        return self.unary(name)(message, timeout=20, **options)

    def failure(self, name: str, message: bytes = b"", timeout: float = 20, **options: Any) -> Any:
        """Return the error that a call ends with."""
        with pytest.raises(grpc.RpcError) as caught:
            self.unary(name)(message, timeout=timeout, **options)
        return caught.value

    def stats(self) -> dict[str, int]:
        return cast("dict[str, int]", json.loads(self.call("Stats")))

    def eventually(self, condition: Callable[[], bool], within_s: float = 10) -> None:
        """Ask until it is true; each question is a round trip."""
        give_up = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < give_up, self.stats()

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self) -> dict[str, int]:
        """Drain the server; return its last counters."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self.process.poll() is None:
            self.process.terminate()
        out, _ = self.process.communicate(timeout=30)
        return cast("dict[str, int]", json.loads(out)) if out.strip() else {}


@pytest.fixture(scope="session", params=_WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    return cast(str, request.param)


@pytest.fixture(scope="session")
def server(wire: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server for the tests that leave it as it was."""
    journal = tmp_path_factory.mktemp("wire") / "journal"
    limits = {"max_message_bytes": 20 << 20}
    running = RunningServer(wire, journal=str(journal), limits=limits)
    running.journal = journal  # type: ignore[attr-defined]  # read by the one test that looks at it
    yield running
    running.stop()


@pytest.fixture(scope="session")
def launch() -> Callable[..., RunningServer]:
    """Start a server that the caller stops."""
    return RunningServer


@pytest.fixture
def start_server(wire: str) -> Iterator[Callable[..., RunningServer]]:
    """Start servers with settings of their own."""
    running: list[RunningServer] = []

    def start(**settings: Any) -> RunningServer:
        running.append(RunningServer(settings.pop("wire", wire), **settings))
        return running[-1]

    yield start
    for each in running:
        each.stop()


class RawClient:
    """An HTTP/2 client that can misbehave: it reads and writes only when told.

    Args:
        port: The server's.
        window_bytes: Its receive windows.
    """

    def __init__(self, port: int, *, window_bytes: int = 1 << 30) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.engine = ngh2.Connection(ngh2.Role.CLIENT, ngh2.Configuration(auto_window_update=True))
        self.engine.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: window_bytes})
        self.engine.set_local_window_size(window_bytes)
        self.events: list[Any] = []
        self.closed = False

    def request(
        self,
        method: str,
        body: bytes | None = b"\0\0\0\0\0",
        *,
        headers: Mapping[bytes, bytes] | None = None,
        end_stream: bool = True,
    ) -> int:
        """Queue a request; without a body, leave it open."""
        fields = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": f"/test.Wire/{method}".encode(),
            b":authority": b"test",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
            **(headers or {}),
        }
        stream_id = self.engine.send_request(list(fields.items()))
        if body is not None:
            self.engine.send_data(stream_id, body, end_stream=end_stream)
        return stream_id

    def flush(self) -> None:
        """Send all that is queued."""
        self.socket.sendall(self.engine.data_to_send())

    def pump(self, until: Callable[[list[Any]], bool] | None = None) -> list[Any]:
        """Send and receive until the events satisfy `until`, or the server closes; return them all."""
        self.flush()
        while not self.closed and (until is None or not until(self.events)):
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionError:
                data = b""
            if not data:
                self.closed = True
                break
            self.engine.receive_data(data)
            self.events += self.engine.events()
            self.flush()
        assert until is None or until(self.events), self.events[-10:]
        return self.events

    def headers_of(self, stream_id: int) -> dict[bytes, bytes]:
        """Return a stream's response headers and trailers together."""
        found: dict[bytes, bytes] = {}
        for event in self.events:
            if (
                isinstance(event, (ngh2.ResponseReceived, ngh2.TrailersReceived))
                and event.stream_id == stream_id
            ):
                found.update(event.headers)
        return found

    def ended(self, stream_id: int) -> Callable[[list[Any]], bool]:
        """Return a condition for `pump`: the stream is over."""
        return lambda events: any(
            isinstance(e, ngh2.StreamClosed) and e.stream_id == stream_id for e in events
        )

    def body_of(self, stream_id: int) -> bytes:
        """Return what was received on a stream."""
        return b"".join(
            e.data for e in self.events if isinstance(e, ngh2.DataReceived) and e.stream_id == stream_id
        )


@pytest.fixture
def raw_client() -> Iterator[Callable[..., RawClient]]:
    """Open raw connections."""
    clients: list[RawClient] = []

    def connect(port: int, **options: Any) -> RawClient:
        clients.append(RawClient(port, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.socket.close()
