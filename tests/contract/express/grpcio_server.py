"""A variant's server on grpcio, whose answers a test chooses. Load this file by its path, after `scripted_server.py`."""

from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import grpc

from anabranch.proto import open_inference_pb2 as pb
from anabranch.variants.manifest import Manifest


@dataclass
class GrpcioServer:
    """Answers on threads of its own; `infer` gets the request's bytes and the context."""

    scripted: ModuleType
    infer: Callable[[bytes, grpc.ServicerContext], bytes] | None = None
    seen: list[tuple[bytes, list[tuple[str, Any]], float | None]] = field(default_factory=list)
    port: int = 0

    async def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers([_Generic(self)])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        """Go away at once, with what is in flight."""
        self._server.stop(None)

    def manifest(self, name: str, **options: Any) -> Manifest:
        """Describe a variant on this server."""
        manifest: Manifest = self.scripted.ScriptedServer(port=self.port).manifest(name, **options)
        return manifest

    def answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        tensor = self.scripted.tensor
        if method.endswith("/ModelInfer"):
            self.seen.append((request, list(context.invocation_metadata()), context.time_remaining()))
            scores: bytes = self.scripted.scores(request)
            return scores if self.infer is None else self.infer(request, context)
        if method.endswith("/ModelReady"):
            return pb.ModelReadyResponse(ready=True).SerializeToString()
        if method.endswith("/ModelMetadata"):
            inputs = [tensor(name, "FP32", [-1, 2]) for name in ("x", "z")]
            outputs = [tensor("y", "FP32", [-1, 3])]
            return pb.ModelMetadataResponse(name="theirs", inputs=inputs, outputs=outputs).SerializeToString()
        context.abort(grpc.StatusCode.UNIMPLEMENTED, method)
        raise AssertionError


class _Generic(grpc.GenericRpcHandler):
    def __init__(self, server: GrpcioServer) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._server.answer(details.method, request, context)
        )
