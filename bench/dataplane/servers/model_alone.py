"""The encoder without a server: rows a second of the bare session, by batch size, as JSON on standard output."""

import json
import sys
import time

import numpy as np

from bench.dataplane.models import encoder_tokens
from bench.dataplane.servers.onnx_model import OnnxModel


def main() -> None:
    """Run batches of each size for a while."""
    plan = json.load(sys.stdin)
    model, tokens = OnnxModel(sys.argv[1]), encoder_tokens()
    found = {}
    for size in plan["batches"]:
        ids = np.repeat(tokens, size, axis=0)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        model.run(feeds)
        begun, rows = time.perf_counter(), 0
        while time.perf_counter() - begun < plan["seconds"]:
            model.run(feeds)
            rows += size
        found[f"rows_per_s_batch_{size}"] = round(rows / (time.perf_counter() - begun), 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
