"""The requests that every server of a scenario gets: the same bytes, and what must come back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import encode_inputs

INFER = "/inference.GRPCInferenceService/ModelInfer"
IDENTITY = "identity"
MLP = "mlp"
ENCODER = "minilm"
SMALL_FLOATS = 16
LARGE_FLOATS = 64 * 1024 // 4
"""64 KiB of float32."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One request, for gRPC and for JSON over HTTP/1.1.

    Attributes:
        model: The model it asks for.
        grpc: The serialized ModelInferRequest.
        json: The Open Inference Protocol's JSON form.
        inputs: The tensors that both of them hold.
        needle: Bytes that an answer over gRPC must contain; empty where float rounding may differ.
    """

    model: str
    grpc: bytes
    json: bytes
    inputs: Mapping[str, Array]
    needle: bytes = b""


def identity_message(floats: int) -> Message:
    """A tensor of a given size for the identity model."""
    values = np.random.default_rng(floats).normal(size=(1, floats)).astype(np.float32)
    return _message(IDENTITY, {"x": values}, needle=values.tobytes())


def mlp_message() -> Message:
    """One row for the network of 16, 64 and 4 units."""
    return _message(MLP, {"x": np.random.default_rng(16).normal(size=(1, SMALL_FLOATS)).astype(np.float32)})


def encoder_message(input_ids: Array) -> Message:
    """One tokenized sentence.

    Args:
        input_ids: Shape (1, tokens), no padding.
    """
    ids = input_ids.astype(np.int64)
    return _message(ENCODER, {"input_ids": ids, "attention_mask": np.ones_like(ids)})


def identity_metadata() -> bytes:
    """The identity model's ModelMetadataResponse."""
    tensor = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, -1])
    return pb.ModelMetadataResponse(
        name=IDENTITY, versions=["1"], platform="identity", inputs=[tensor], outputs=[tensor]
    ).SerializeToString()


def _message(model: str, inputs: Mapping[str, Array], needle: bytes = b"") -> Message:
    request = pb.ModelInferRequest(model_name=model)
    encode_inputs(request, inputs)
    body = {
        "inputs": [
            {
                "name": each.name,
                "datatype": each.datatype,
                "shape": list(each.shape),
                "data": inputs[each.name].ravel().tolist(),
            }
            for each in request.inputs
        ]
    }
    return Message(
        model=model,
        grpc=request.SerializeToString(),
        json=json.dumps(body).encode(),
        inputs=inputs,
        needle=needle,
    )
