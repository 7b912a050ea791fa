"""LitServe around an ONNX file, JSON over HTTP.

litserve_model.py PORT FILE
"""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from bench.dataplane.servers.onnx_model import OnnxModel


class Api(litserve.LitAPI):
    """One ONNX file."""

    def __init__(self, path: str) -> None:
        super().__init__(api_path="/infer")
        self._path = path

    def setup(self, device: Any) -> None:  # noqa: ARG002  # LitServe's signature
        """Open the session in the worker."""
        self._onnx = OnnxModel(self._path)

    # LitServe reads the annotation: with any other than this it takes the body for a query.
    def decode_request(self, request: Request) -> Any:
        """JSON to arrays; LitServe passes the parsed body."""
        body: Any = request
        return {
            each["name"]: np.array(each["data"], dtype=np.float32).reshape(each["shape"])
            for each in body["inputs"]
        }

    def predict(self, x: Any) -> Any:
        """Run one request."""
        return self._onnx.run(x)

    def encode_response(self, output: Any) -> Any:
        """Arrays to JSON."""
        return {
            "outputs": [{"name": self._onnx.output, "shape": output.shape, "data": output.ravel().tolist()}]
        }


if __name__ == "__main__":
    server = litserve.LitServer(Api(sys.argv[2]), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
