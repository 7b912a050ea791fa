"""An Open Inference server whose answers a test chooses, down to HTTP/2's frames. Load this file by its path."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ngh2

from anabranch.proto import open_inference_pb2 as pb
from anabranch.variants.manifest import VERSION, Manifest
from anabranch.variants.remote_target import OutlierDetection, RemoteEngine, RemoteTarget
from anabranch.variants.tensors import Datatype, Signature, TensorSpec

SERVICE = "/inference.GRPCInferenceService"
INFER = f"{SERVICE}/ModelInfer"
HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK = [(b"grpc-status", b"0")]
UNIMPLEMENTED = 12


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def tensor(name: str, datatype: str, shape: list[int]) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype, shape=shape)


def tensors(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1, 2)) for name in names)


def scores(request: bytes, data: bytes = bytes(12)) -> bytes:
    """An answer with one row of three scores, or with as many bytes of them as asked for."""
    response = pb.ModelInferResponse(model_name="theirs", model_version="9")
    response.id = pb.ModelInferRequest.FromString(request).id
    response.outputs.add(name="y", datatype="FP32", shape=[len(data) // 12, 3])
    response.raw_output_contents.append(data)
    return response.SerializeToString()


@dataclass
class Asked:
    """One request as it came, and what can be done about it."""

    connection: "Connection"
    stream: int
    fields: list[tuple[bytes, bytes]]
    message: bytes
    is_cancelled: bool = False
    is_over: bool = False

    @property
    def metadata(self) -> list[tuple[bytes, bytes]]:
        """The fields that a client chose."""
        own = (b":", b"grpc-")
        return [
            pair
            for pair in self.fields
            if not pair[0].startswith(own) and pair[0] not in (b"te", b"content-type", b"user-agent")
        ]

    @property
    def timeout(self) -> bytes | None:
        return dict(self.fields).get(b"grpc-timeout")

    def answer(
        self,
        message: bytes | None = None,
        *,
        head: list[tuple[bytes, bytes]] | None = None,
        trailers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """Answer with OK."""
        self.send(head or HEAD, framed(scores(self.message) if message is None else message), trailers)

    def send(
        self,
        head: list[tuple[bytes, bytes]],
        body: bytes = b"",
        trailers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        engine = self.connection.engine
        engine.send_response(self.stream, head)
        if body:
            engine.send_data(self.stream, body)
        engine.send_trailers(self.stream, OK if trailers is None else trailers)
        self.connection.flush()

    def fail(self, status: int, text: bytes = b"because") -> None:
        """End with a status and nothing else."""
        fields = [*HEAD, (b"grpc-status", b"%d" % status), (b"grpc-message", text)]
        self.connection.engine.send_response(self.stream, fields, end_stream=True)
        self.connection.flush()

    def reset(self, code: int) -> None:
        self.connection.engine.reset_stream(self.stream, code)
        self.connection.flush()

    def later(self, seconds: float, then: Callable[["Asked"], None] = answer) -> None:
        """Do it after a while, if the client still waits."""

        def due() -> None:
            if not self.is_cancelled and not self.connection.is_lost:
                then(self)

        asyncio.get_running_loop().call_later(seconds, due)


Behaviour = Callable[[Asked], None]


@dataclass
class ScriptedServer:
    """Does with each request what `behave` says; on the running loop."""

    behave: Behaviour = Asked.answer
    is_ready: bool = True
    seen: list[Asked] = field(default_factory=list)
    connections: "set[Connection]" = field(default_factory=set)
    port: int = 0
    most_streams: int = 1000

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Go away at once, with what is in flight."""
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()

    def manifest(self, name: str, **options: Any) -> Manifest:
        """Describe a variant on this server."""
        remote: dict[str, Any] = {
            "target": f"127.0.0.1:{self.port}",
            "model": "theirs",
            "model_version": "3",
            "health_interval_s": 30.0,
            "outliers": OutlierDetection(consecutive_errors=1000),
            **options,
        }
        return Manifest(
            version=VERSION,
            model="m",
            variant=name,
            engine=RemoteEngine.REMOTE,
            recipe={"name": "remote"},
            artifact="",
            files=(),
            signatures=(
                Signature(name="inputs", inputs=tensors("x")),
                Signature(name="both", inputs=tensors("x", "z")),
            ),
            outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 3)),),
            text=None,
            sources={},
            tools={},
            cache_key="",
            size_bytes=0,
            build_s=0.0,
            parity=None,
            task=None,
            latency=(),
            remote=RemoteTarget(**remote),
        )

    def ask(self, asked: Asked, path: bytes) -> None:
        if path == INFER.encode():
            self.seen.append(asked)
            self.behave(asked)
        elif path == f"{SERVICE}/ModelReady".encode():
            asked.answer(pb.ModelReadyResponse(ready=self.is_ready).SerializeToString())
        elif path == f"{SERVICE}/ModelMetadata".encode():
            asked.answer(
                pb.ModelMetadataResponse(
                    name="theirs",
                    inputs=[tensor(name, "FP32", [-1, 2]) for name in ("x", "z")],
                    outputs=[tensor("y", "FP32", [-1, 3])],
                ).SerializeToString()
            )
        else:
            asked.fail(UNIMPLEMENTED)


class Connection(asyncio.Protocol):
    """The server's end of a connection."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.engine = ngh2.Connection(ngh2.Role.SERVER)
        self.transport: Any = None
        self.is_lost = False
        self.open: dict[int, Asked] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.server.connections.add(self)
        window = ngh2.Setting.INITIAL_WINDOW_SIZE
        self.engine.initiate_connection(
            {window: 8 << 20, ngh2.Setting.MAX_CONCURRENT_STREAMS: self.server.most_streams}
        )
        self.engine.set_local_window_size(64 << 20)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.server.connections.discard(self)
        for asked in self.open.values():
            asked.is_cancelled = True
        self.open.clear()

    def data_received(self, data: bytes) -> None:
        self.engine.receive_data(data)
        whole: list[Asked] = []
        for event in self.engine.events():
            match event:
                case ngh2.RequestReceived():
                    self.open[event.stream_id] = Asked(self, event.stream_id, list(event.headers), b"")
                case ngh2.DataReceived():
                    asked = self.open[event.stream_id]
                    asked.message += event.data
                    if event.end_stream:
                        whole.append(asked)
                case ngh2.StreamReset():
                    if event.stream_id in self.open:
                        self.open[event.stream_id].is_cancelled = True
                case ngh2.StreamClosed():
                    if (over := self.open.pop(event.stream_id, None)) is not None:
                        over.is_over = True
        for asked in whole:
            if not asked.is_cancelled:
                assert asked.message[:5] == b"\0" + (len(asked.message) - 5).to_bytes(4, "big")
                asked.message = asked.message[5:]
                self.server.ask(asked, dict(asked.fields)[b":path"])
        self.flush()

    def flush(self) -> None:
        if not self.is_lost and (data := self.engine.data_to_send()):
            self.transport.write(data)
