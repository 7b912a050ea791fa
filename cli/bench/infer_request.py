"""A ModelInferRequest from what people type, and from what the server says its model takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, did_you_mean
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import DTYPES, Array, TensorError, encode_inputs

_Tensor = pb.ModelMetadataResponse.TensorMetadata


def build_request(
    model: str,
    inputs: Sequence[_Tensor],
    *,
    given: Mapping[str, str],
    text: str | None,
    tensor_bytes: int | None,
) -> bytes:
    """Return a serialized request for a model.

    Args:
        model: Its name.
        inputs: What it takes, by its metadata; -1 in a shape is any size.
        given: Inputs by name, as JSON or `@file.npy`; only these are sent.
        text: For the one input of type BYTES; only that is sent.
        tensor_bytes: Size to which the first input that can grow is grown.

    Without any of these, every input is zeros, -1 taken as 1. A model that takes texts or numbers gets numbers.

    Raises:
        CommandFailed: They do not fit the model.
    """
    described = {tensor.name: tensor for tensor in inputs}
    request = pb.ModelInferRequest(model_name=model)
    if given:
        arrays = {name: _read(name, value, described) for name, value in given.items()}
    elif text is not None:
        tensor = _text_input(model, inputs)
        arrays = {tensor.name: np.full(_smallest(tensor.shape), text.encode(), np.object_)}
    else:
        numbers = [tensor for tensor in inputs if tensor.datatype != "BYTES"]
        shapes = _grown(numbers, tensor_bytes) if tensor_bytes else {}
        arrays = {
            tensor.name: _zeros(tensor, shapes.get(tensor.name, _smallest(tensor.shape)))
            for tensor in numbers or inputs
        }
    if not arrays:
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"model {model!r} names no inputs", "give them: --input NAME=JSON"
        )
    try:
        encode_inputs(request, arrays, {name: described[name].datatype for name in arrays})
    except TensorError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error
    return request.SerializeToString()


def parse_pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """Read repeated NAME=VALUE options.

    Raises:
        CommandFailed: One is something else.
    """
    found: dict[str, str] = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not (name and separator):
            raise CommandFailed(ExitCode.BAD_INPUT, f"{option} is {each!r}: give NAME=VALUE")
        found[name] = value
    return found


def _read(name: str, value: str, described: Mapping[str, _Tensor]) -> Array:
    tensor = described.get(name)
    if tensor is None:
        known = ", ".join(described) or "none"
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"--input {name!r} is no input of the model, it has: {known}{did_you_mean(name, described)}",
        )
    try:
        if value.startswith("@"):
            loaded: Array = np.load(value[1:], allow_pickle=False)
            return loaded
        return np.asarray(json.loads(value), DTYPES[tensor.datatype])
    except (OSError, ValueError, TypeError) as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"--input {name}={value[:60]} is no {tensor.datatype}: {error}",
            "give JSON, such as [[1, 2, 3]], or @file.npy",
        ) from error


def _text_input(model: str, inputs: Sequence[_Tensor]) -> _Tensor:
    texts = [tensor for tensor in inputs if tensor.datatype == "BYTES"]
    if len(texts) != 1:
        named = ", ".join(tensor.name for tensor in texts) or "none"
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            f"--text needs a model with one input of type BYTES, {model!r} has: {named}",
            "name the input: --input NAME='[\"text\"]'",
        )
    return texts[0]


def _smallest(shape: Sequence[int]) -> list[int]:
    return [1 if size < 0 else size for size in shape]


def _zeros(tensor: _Tensor, shape: Sequence[int]) -> Array:
    if tensor.datatype == "BYTES":
        return np.full(shape, b"", np.object_)
    dtype: np.dtype[Any] | None = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"input {tensor.name!r} has the unknown datatype {tensor.datatype!r}"
        )
    return np.zeros(shape, dtype)


def _grown(inputs: Sequence[_Tensor], size_bytes: int) -> dict[str, list[int]]:
    """Give the first input with a size that may be any, the last such size, so many bytes."""
    for tensor in inputs:
        free = [place for place, size in enumerate(tensor.shape) if size < 0]
        if free:
            shape = _smallest(tensor.shape)
            item_bytes = 2 if tensor.datatype == "BF16" else _zeros(tensor, []).itemsize
            shape[free[-1]] = max(1, size_bytes // max(1, item_bytes * math.prod(shape)))
            return {tensor.name: shape}
    raise CommandFailed(
        ExitCode.BAD_INPUT,
        "--tensor-bytes needs an input of numbers with a free size (-1), the model has none",
        "leave it out, or give the input: --input NAME=@file.npy",
    )
