"""Messages become values."""

from anabranch.client import reading
from anabranch.proto import control_pb2 as pb


def test_arms_come_in_the_order_of_the_document_and_not_of_a_map() -> None:
    arms = [
        "onnx-fp32",
        *(f"onnx-{name}" for name in ("mixed", "int8-static", "fp16", "bf16", "int8-dynamic")),
    ]
    message = pb.Experiment(baseline=arms[0], candidates=arms[1:], document_json="{}")
    for number, arm in enumerate(reversed(arms)):
        message.weights[arm] = number / 15
        message.requests[arm] = number
    read = reading.experiment(message)
    assert list(read.weights) == arms
    assert list(read.requests) == arms
    assert read.requests["onnx-fp32"] == 5
