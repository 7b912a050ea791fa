"""KServe's SDK around an ONNX file.

kserve_model.py GRPC_PORT HTTP_PORT NAME FILE
"""

import sys
from typing import Any

import kserve

from bench.dataplane.servers.onnx_model import OnnxModel


class Model(kserve.Model):
    """One ONNX file."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self._onnx = OnnxModel(path)
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:  # noqa: ARG002  # KServe's signature
        """Run one request."""
        feeds = {each.name: each.as_numpy() for each in payload.inputs}
        result = self._onnx.run(feeds)
        output = kserve.InferOutput(name=self._onnx.output, shape=list(result.shape), datatype="FP32")
        output.set_data_from_numpy(result, binary_data=True)
        return kserve.InferResponse(
            response_id=payload.id or "", model_name=self.name, infer_outputs=[output]
        )


if __name__ == "__main__":
    grpc_port, http_port, name, path = sys.argv[1:]
    server = kserve.ModelServer(
        http_port=int(http_port), grpc_port=int(grpc_port), workers=1, enable_latency_logging=False
    )
    server.start([Model(name, path)])
