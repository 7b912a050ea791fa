"""Triton with PyTriton's Python backend around an ONNX file.

pytriton_model.py GRPC_PORT HTTP_PORT METRICS_PORT NAME FILE MAX_BATCH DELAY_US
"""

import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench.dataplane.servers.onnx_model import OnnxModel

_ENCODER_INPUTS = [
    Tensor(name="input_ids", dtype=np.int64, shape=(-1,)),
    Tensor(name="attention_mask", dtype=np.int64, shape=(-1,)),
]
_MLP_INPUTS = [Tensor(name="x", dtype=np.float32, shape=(16,))]


def main() -> None:
    """Serve until killed."""
    grpc_port, http_port, metrics_port, name, path, max_batch, delay_us = sys.argv[1:]
    onnx = OnnxModel(path)
    is_encoder = name != "mlp"

    @batch
    def infer(**feeds: Any) -> dict[str, Any]:
        return {onnx.output: onnx.run(feeds)}

    config = TritonConfig(
        grpc_port=int(grpc_port), http_port=int(http_port), metrics_port=int(metrics_port), log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=infer,
            inputs=_ENCODER_INPUTS if is_encoder else _MLP_INPUTS,
            outputs=[Tensor(name=onnx.output, dtype=np.float32, shape=(-1,))],
            config=ModelConfig(
                max_batch_size=int(max_batch),
                batcher=DynamicBatcher(max_queue_delay_microseconds=int(delay_us)),
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
