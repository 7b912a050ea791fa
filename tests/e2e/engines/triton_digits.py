"""Triton's server, with its Python backend by PyTriton, around a small classifier of digits.

triton_digits.py GRPC_PORT HTTP_PORT METRICS_PORT WEIGHTS
"""

import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

if __name__ == "__main__":
    grpc_port, http_port, metrics_port, path = sys.argv[1:]
    arrays = np.load(path)
    first, first_bias, second, second_bias = (arrays[name] for name in sorted(arrays.files))

    @batch
    def infer(pixels: Any) -> dict[str, Any]:
        logits = np.maximum(pixels @ first + first_bias, 0.0) @ second + second_bias
        return {"logits": logits.astype(np.float32)}

    config = TritonConfig(
        grpc_port=int(grpc_port), http_port=int(http_port), metrics_port=int(metrics_port), log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="theirs",
            infer_func=infer,
            inputs=[Tensor(name="pixels", dtype=np.float32, shape=(64,))],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(10,))],
            config=ModelConfig(max_batch_size=16),
        )
        triton.serve()
