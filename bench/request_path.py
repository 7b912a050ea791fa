"""What each step of the request path takes, beside protobuf doing the same: one JSON line of microseconds.

    python bench/request_path.py [--reps 7]

The model is an MLP of 16, 64 and 4 in ONNX; a request has one row. The smallest of the repetitions is given, as others use the machine too.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import decode_inputs, encode_inputs, encode_outputs
from anabranch.router.assignment_id import AssignmentIds
from anabranch.router.models import Models, ServedModel
from anabranch.router.queries import Queries, check
from anabranch.router.recent import RecentQuantile
from anabranch.router.replies import Replies
from anabranch.store.records import routed_body
from anabranch.variants.batching import Answer, Timing
from anabranch.variants.own_models import import_onnx
from anabranch.variants.runtime import LoadedVariant, load_variant

_BATCH = 16
_CALLS = 5_000


def _model(folder: Path) -> LoadedVariant:
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(size=(16, 64)), "w2": rng.normal(size=(64, 4))}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["rectified"]),
            helper.make_node("MatMul", ["rectified", "w2"], ["y"]),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(folder / "mlp.onnx"))
    import_onnx(folder / "mlp.onnx", "mlp", "onnx-fp32", folder / "models")
    return load_variant(folder / "models" / "mlp" / "onnx-fp32")


def _steps(variant: LoadedVariant) -> dict[str, tuple[Callable[[], object], int]]:
    """By name, the step and how many requests one call of it serves."""
    queries = Queries(Models({"mlp": ServedModel(name="mlp", variants={"v": variant})}))
    request = pb.ModelInferRequest(model_name="mlp")
    encode_inputs(request, {"x": np.ones((1, 16), np.float32)})
    message = request.SerializeToString()
    query = queries.read(message, ())
    replies, ids, recent = Replies(), AssignmentIds(bytes(32)), RecentQuantile(0.99)
    answer = Answer({"y": np.ones((1, 4), np.float32)}, Timing(0.0, 0.0, 1))
    plain = [("x-invoked-variant", "v")]
    assigned = [*plain, ("x-assignment-id", "a" * 52), ("x-experiment", "exp")]
    batch = [{"x": np.ones((1, 16), np.float32)} for _ in range(_BATCH)]
    latencies = iter(np.random.default_rng(0).random(1_000_000).tolist())

    def read() -> object:
        found = queries.read(message, ())
        check(found, "v", variant)
        return found.inputs

    def read_by_protobuf() -> object:
        return variant.check_inputs(decode_inputs(pb.ModelInferRequest.FromString(message)))

    def reply_by_protobuf() -> bytes:
        response = pb.ModelInferResponse(model_name="mlp", model_version="v")
        response.parameters["invoked_variant"].string_param = "v"
        encode_outputs(response, answer.outputs)
        return response.SerializeToString()

    return {
        "read, check, view": (read, 1),
        "the same by protobuf": (read_by_protobuf, 1),
        "run, in a batch of 16": (lambda: variant.infer(batch), _BATCH),
        "reply": (lambda: replies.local(query, "v", answer, plain), 1),
        "the same reply by protobuf": (reply_by_protobuf, 1),
        "reply in an experiment": (lambda: replies.local(query, "v", answer, assigned), 1),
        "assignment id": (lambda: ids.give_out(1, 1, 0, 1, 1, 5, -1, 0.5), 1),
        "record": (lambda: routed_body(1.0, 1, 1, 0, 1, 0, 1.0, 1.0, 1.0, 4, 0.5, 7, bytes(16)), 1),
        "baseline's recent p99": (lambda: recent.add(next(latencies)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps = _steps(_model(Path(folder)))
        found = {
            name: round(
                min(timeit.repeat(step, number=_CALLS, repeat=options.reps)) / _CALLS * 1e6 / requests, 2
            )
            for name, (step, requests) in steps.items()
        }
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(
        json.dumps(
            {
                "bench": "request_path",
                "commit": commit.stdout.strip(),
                "machine": machine,
                "us_per_request": found,
            }
        )
    )


if __name__ == "__main__":
    main()
