"""BentoML around the ONNX file named by BENCH_ONNX, JSON over HTTP: `bentoml serve bench.dataplane.servers.bentoml_model:Model`."""

import os
from typing import Any

import bentoml
import numpy as np

from bench.dataplane.servers.onnx_model import OnnxModel


@bentoml.service(workers=1)
class Model:
    """One ONNX file."""

    def __init__(self) -> None:
        self._onnx = OnnxModel(os.environ["BENCH_ONNX"])

    @bentoml.api(route="/infer")
    async def infer(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Run one request."""
        feeds = {
            each["name"]: np.array(each["data"], dtype=np.float32).reshape(each["shape"]) for each in inputs
        }
        output = self._onnx.run(feeds)
        return {
            "outputs": [{"name": self._onnx.output, "shape": output.shape, "data": output.ravel().tolist()}]
        }
