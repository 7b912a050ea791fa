"""One very large tensor by Triton's client: python triton_large.py ADDRESS MEBIBYTES; prints JSON."""

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def main(address: str, size_mib: int) -> None:
    rows = np.zeros((size_mib << 12, 64), np.float32)
    rows[-1] = np.linspace(0, 1, 64, dtype=np.float32)
    client = triton.InferenceServerClient(address)
    tensor = triton.InferInput("pixels", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    try:
        result = client.infer("digits", [tensor], model_version="plain")
    except InferenceServerException as error:
        print(json.dumps({"status": error.status(), "message": error.message()}))
        return
    small = triton.InferInput("pixels", [1, 64], "FP32")
    small.set_data_from_numpy(rows[-1:])
    alone = client.infer("digits", [small], model_version="plain").as_numpy("logits")
    logits = result.as_numpy("logits")
    print(json.dumps({"rows": len(logits), "last": bool(np.allclose(logits[-1:], alone, atol=1e-4))}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
