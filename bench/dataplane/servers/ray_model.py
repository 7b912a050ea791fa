"""Ray Serve's gRPC proxy and one replica around an ONNX file.

ray_model.py GRPC_PORT HTTP_PORT FILE
"""

import sys
import threading
from typing import Any

import grpc
import numpy as np
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions

from anabranch.proto import open_inference_pb2 as pb
from bench.dataplane.servers.onnx_model import OnnxModel

_HERE = "bench.dataplane.servers.ray_model"


def add_servicer(servicer: Any, server: Any) -> None:
    """What grpcio's generator would write for the one method that is used."""
    infer = grpc.unary_unary_rpc_method_handler(
        servicer.ModelInfer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"ModelInfer": infer}),))


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Model:
    """One ONNX file."""

    def __init__(self, path: str) -> None:
        self._onnx = OnnxModel(path)

    async def ModelInfer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:  # noqa: N802  # gRPC's name
        """Run one request."""
        feeds = {
            each.name: np.frombuffer(raw, np.float32).reshape(tuple(each.shape))
            for each, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        output = self._onnx.run(feeds)
        response = pb.ModelInferResponse(
            model_name=request.model_name, raw_output_contents=[output.tobytes()]
        )
        response.outputs.add(name=self._onnx.output, datatype="FP32", shape=output.shape)
        return response


if __name__ == "__main__":
    grpc_port, http_port, path = sys.argv[1:]
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    serve.start(
        http_options=HTTPOptions(port=int(http_port)),
        grpc_options=gRPCOptions(port=int(grpc_port), grpc_servicer_functions=[f"{_HERE}.add_servicer"]),
    )
    # Named by its module, as the replica must be able to import it.
    from bench.dataplane.servers import ray_model

    deployment: Any = ray_model.Model
    serve.run(deployment.bind(path), name="default", route_prefix="/")
    print("ready", flush=True)
    threading.Event().wait()
