"""Bring your own ONNX file: a tiny network that tells in which quadrant a point lies.

python examples/own_model.py write quadrants.onnx
anabranch build quadrants.onnx --variant onnx-fp32 --variant onnx-int8-dynamic
anabranch serve --baseline quadrants=onnx-fp32          # goes on; the rest in another terminal
anabranch apply -f examples/own-model.yaml
python examples/own_model.py ask 127.0.0.1:8001 5000    # requests, and their true classes as feedback
anabranch get quadrants-int8
"""

import sys

import grpc
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from anabranch.proto.feedback_pb2 import Outcome, SubmitRequest, SubmitResponse
from anabranch.proto.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from anabranch.proto.tensors import decode_outputs, encode_inputs

LABELS_TOGETHER = 50


def write(path: str) -> None:
    """Write the network: how far a point is to the right, left, top and bottom, then the quadrants' sums."""
    weights = {
        "sides": np.array([[1, -1, 0, 0], [0, 0, 1, -1]], np.float32),
        "quadrants": np.array([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]], np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["point", "sides"], ["signed"]),
        helper.make_node("Relu", ["signed"], ["distances"]),
        helper.make_node("MatMul", ["distances", "quadrants"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quadrants",
        [helper.make_tensor_value_info("point", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def ask(address: str, requests: int) -> None:
    """Send random points; report the true quadrants some answers later."""
    rng = np.random.default_rng(0)
    right, waiting = 0, []
    with grpc.insecure_channel(address) as channel:
        for _ in range(requests):
            point = rng.uniform(-1, 1, (1, 2)).astype(np.float32)
            response = infer(channel, point)
            truth = quadrant(*point[0])
            right += int(decode_outputs(response)["scores"].argmax()) == truth
            if "assignment_id" in response.parameters:
                assignment = response.parameters["assignment_id"].string_param
                waiting.append(Outcome(assignment_id=assignment, label=truth))
            if len(waiting) >= LABELS_TOGETHER:
                report(channel, waiting)
                waiting = []
    print(f"{right} of {requests} answers were right")


def quadrant(x: float, y: float) -> int:
    """Counter-clockwise from the top right."""
    return {(True, True): 0, (False, True): 1, (False, False): 2, (True, False): 3}[bool(x > 0), bool(y > 0)]


def infer(channel: grpc.Channel, point: NDArray[np.float32]) -> ModelInferResponse:
    call: grpc.UnaryUnaryMultiCallable[ModelInferRequest, ModelInferResponse] = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=ModelInferRequest.SerializeToString,
        response_deserializer=ModelInferResponse.FromString,
    )
    request = ModelInferRequest(model_name="quadrants")
    encode_inputs(request, {"point": point})
    return call(request, timeout=30)


def report(channel: grpc.Channel, outcomes: list[Outcome]) -> None:
    submit: grpc.UnaryUnaryMultiCallable[SubmitRequest, SubmitResponse] = channel.unary_unary(
        "/anabranch.v1.FeedbackService/Submit",
        request_serializer=SubmitRequest.SerializeToString,
        response_deserializer=SubmitResponse.FromString,
    )
    submit(SubmitRequest(outcomes=outcomes), timeout=30)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        ask(sys.argv[2], int(sys.argv[3]))
