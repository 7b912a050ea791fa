"""A remote Open Inference server on grpcio whose answers a test chooses, and a remote variant of it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import encode_inputs, encode_outputs
from anabranch.variants.manifest import VERSION, Manifest
from anabranch.variants.remote import RemoteVariant
from anabranch.variants.remote_target import OutlierDetection, RemoteEngine, RemoteTarget
from anabranch.variants.tensors import Datatype, Signature, TensorSpec

SERVICE = "inference.GRPCInferenceService"
_T = TypeVar("_T")


def tensor(name: str, shape: list[int]) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=name, datatype="FP32", shape=shape)


@dataclass
class FakeServer:
    """Answers as told; `infer` is called with the request's bytes and the context."""

    infer: Callable[[bytes, grpc.ServicerContext], bytes]
    stream: Callable[[bytes, grpc.ServicerContext], Iterator[bytes]] | None = None
    """Answers one request of a stream; such a server says that it is decoupled."""
    ready: bool = True
    has_readiness: bool = True
    health: int = 1
    metadata: pb.ModelMetadataResponse = field(
        default_factory=lambda: pb.ModelMetadataResponse(
            name="theirs", inputs=[tensor("x", [-1, 2])], outputs=[tensor("y", [-1, 3])]
        )
    )
    seen: list[tuple[bytes, dict[str, Any], float | None]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers([_Generic(self)])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait(10)

    def answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        if method == f"/{SERVICE}/ModelInfer":
            left = context.time_remaining()
            metadata = dict(context.invocation_metadata())
            self.seen.append((request, metadata, left))
            return self.infer(request, context)
        if method == f"/{SERVICE}/ModelReady" and self.has_readiness:
            return pb.ModelReadyResponse(ready=self.ready).SerializeToString()
        if method == f"/{SERVICE}/ModelMetadata":
            return self.metadata.SerializeToString()
        if method == f"/{SERVICE}/ModelConfig" and self.stream is not None:
            policy = pb.ModelTransactionPolicy(decoupled=True)
            return pb.ModelConfigResponse(
                config=pb.ModelConfig(model_transaction_policy=policy)
            ).SerializeToString()
        if method == f"/{SERVICE}/ServerMetadata":
            return pb.ServerMetadataResponse(name="fake", version="1").SerializeToString()
        if method == "/grpc.health.v1.Health/Check":
            return bytes([8, self.health])
        context.abort(grpc.StatusCode.UNIMPLEMENTED, method)
        raise AssertionError


class _Generic(grpc.GenericRpcHandler):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method == f"/{SERVICE}/ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._server.answer(details.method, request, context)
        )

    def _stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        assert self._server.stream is not None
        for request in requests:
            self._server.seen.append((request, dict(context.invocation_metadata()), context.time_remaining()))
            yield from self._server.stream(request, context)


def echo_infer(request: bytes, _context: grpc.ServicerContext) -> bytes:
    """Answers with three scores, whatever is asked."""
    response = pb.ModelInferResponse(model_name="theirs", id=pb.ModelInferRequest.FromString(request).id)
    encode_outputs(response, {"y": np.array([[0.0, 1.0, 0.0]], np.float32)})
    return response.SerializeToString()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer(infer=echo_infer)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def manifest(fake: FakeServer) -> Manifest:
    return Manifest(
        version=VERSION,
        model="m",
        variant="away",
        engine=RemoteEngine.REMOTE,
        recipe={"name": "remote"},
        artifact="",
        files=(),
        signatures=(
            Signature(name="inputs", inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2)),)),
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
        remote=RemoteTarget(
            target=f"127.0.0.1:{fake.port}",
            model="theirs",
            model_version="3",
            connections=1,
            health_interval_s=0.05,
            outliers=OutlierDetection(base_ejection_time_s=30.0),
        ),
    )


@pytest.fixture
def request_bytes() -> bytes:
    request = pb.ModelInferRequest(model_name="m", model_version="away", id="7")
    request.parameters["temperature"].double_param = 0.5
    encode_inputs(request, {"x": np.arange(2, dtype=np.float32).reshape(1, 2)})
    return request.SerializeToString()


class Client:
    """A started remote variant, and its results as values."""

    def __init__(self, variant: RemoteVariant) -> None:
        self.variant = variant

    def send(self, message: bytes, **options: Any) -> tuple[Any, "asyncio.Future[Any]"]:
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        settings: dict[str, Any] = {"rows": 1, "metadata": (), "is_copy": False, "deadline": None, **options}
        call = self.variant.submit(message, done=ended.set_result, **settings)
        return call, ended

    async def ask(self, message: bytes, **options: Any) -> Any:
        return await asyncio.wait_for(self.send(message, **options)[1], 20)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    return until


@pytest.fixture
def use(manifest: Manifest, tmp_path: Path) -> Callable[..., Any]:
    """Run a coroutine function with a client of the fake server."""

    def run(work: Callable[[Client], Awaitable[_T]], **remote: Any) -> _T:
        async def with_client() -> _T:
            assert manifest.remote is not None
            changed = replace(manifest, remote=replace(manifest.remote, **remote))
            variant = RemoteVariant(changed, tmp_path)
            await variant.start()
            try:
                return await work(Client(variant))
            finally:
                await variant.close()

        return asyncio.run(with_client())

    return run
