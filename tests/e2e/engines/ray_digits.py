"""Ray Serve's gRPC proxy in front of a deployment that speaks the Open Inference Protocol: a small classifier of digits.

Ray Serve knows no such protocol by itself: the deployment has its methods, and `add_servicer` tells the proxy of them.

ray_digits.py GRPC_PORT HTTP_PORT WEIGHTS
"""

import sys
import threading
from importlib import import_module
from typing import Any

import grpc
import numpy as np
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions

from anabranch.proto import open_inference_pb2 as pb

METHODS = ("ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")


def add_servicer(servicer: Any, server: Any) -> None:
    """What grpcio's generator writes: here for the four methods that Anabranch asks."""
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, name),
            request_deserializer=getattr(pb, f"{name}Request").FromString,
            response_serializer=getattr(pb, f"{name}Response").SerializeToString,
        )
        for name in METHODS
    }
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((service,))


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Digits:
    def __init__(self, path: str) -> None:
        arrays = np.load(path)
        self._weights = [arrays[name] for name in sorted(arrays.files)]

    async def ServerMetadata(self, _request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:  # noqa: N802  # gRPC's name
        return pb.ServerMetadataResponse(name="ray-serve", version=ray.__version__)

    async def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:  # noqa: N802  # gRPC's name
        return pb.ModelReadyResponse(ready=request.name == "theirs")

    async def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:  # noqa: N802  # gRPC's name
        response = pb.ModelMetadataResponse(name=request.name, platform="ray-serve")
        response.inputs.add(name="pixels", datatype="FP32", shape=[-1, 64])
        response.outputs.add(name="logits", datatype="FP32", shape=[-1, 10])
        return response

    async def ModelInfer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:  # noqa: N802  # gRPC's name
        [tensor], [raw] = request.inputs, request.raw_input_contents
        pixels = np.frombuffer(raw, np.float32).reshape(tuple(tensor.shape))
        first, first_bias, second, second_bias = self._weights
        logits = np.maximum(pixels @ first + first_bias, 0.0) @ second + second_bias
        response = pb.ModelInferResponse(
            model_name=request.model_name, raw_output_contents=[logits.astype(np.float32).tobytes()]
        )
        response.outputs.add(name="logits", datatype="FP32", shape=logits.shape)
        return response


if __name__ == "__main__":
    grpc_port, http_port, path = sys.argv[1:]
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    serve.start(
        http_options=HTTPOptions(port=int(http_port)),
        grpc_options=gRPCOptions(port=int(grpc_port), grpc_servicer_functions=["ray_digits.add_servicer"]),
    )
    # Named by its module, as the replica must be able to import it.
    deployment: Any = import_module("ray_digits").Digits
    serve.run(deployment.bind(path), name="default", route_prefix="/")
    threading.Event().wait()
