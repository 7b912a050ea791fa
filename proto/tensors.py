"""The tensor codec: Open Inference Protocol tensors to numpy arrays and back, without copying where bytes allow.

Raw contents become views of the message's bytes (read-only). BF16 has no numpy type: it becomes float32, and is rounded
to nearest, ties to even, on the way out.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from anabranch.proto import open_inference_pb2 as pb

Array = npt.NDArray[Any]

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<f4"),
    "BYTES": np.dtype(np.object_),
}
"""The numpy type of each datatype."""

_DATATYPES: Final = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
_RAW_ITEM_BYTES: Final = {name: 2 if name == "BF16" else dtype.itemsize for name, dtype in DTYPES.items()}

_Contents = Callable[[pb.InferTensorContents], Sequence[Any]]
_CONTENTS: Final[Mapping[str, tuple[str, _Contents]]] = {
    "BOOL": ("bool_contents", lambda contents: contents.bool_contents),
    "INT8": ("int_contents", lambda contents: contents.int_contents),
    "INT16": ("int_contents", lambda contents: contents.int_contents),
    "INT32": ("int_contents", lambda contents: contents.int_contents),
    "INT64": ("int64_contents", lambda contents: contents.int64_contents),
    "UINT8": ("uint_contents", lambda contents: contents.uint_contents),
    "UINT16": ("uint_contents", lambda contents: contents.uint_contents),
    "UINT32": ("uint_contents", lambda contents: contents.uint_contents),
    "UINT64": ("uint64_contents", lambda contents: contents.uint64_contents),
    "FP32": ("fp32_contents", lambda contents: contents.fp32_contents),
    "FP64": ("fp64_contents", lambda contents: contents.fp64_contents),
    "BYTES": ("bytes_contents", lambda contents: contents.bytes_contents),
}

_Described = TypeVar(
    "_Described", pb.ModelInferRequest.InferInputTensor, pb.ModelInferResponse.InferOutputTensor
)


class TensorError(ValueError):
    """A tensor does not agree with its own description."""


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of a numpy type.

    Raises:
        TensorError: It has none.
    """
    name = _DATATYPES.get(dtype.newbyteorder("<"))
    if name is None and dtype.kind in "SU":
        name = "BYTES"
    if name is None:
        raise TensorError(f"numpy type {dtype} has no datatype: use one of {', '.join(DTYPES)}")
    return name


def decode_raw(label: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Array:
    """Read a tensor from raw contents.

    Args:
        label: Names the tensor in errors, as `input 'x'`.
        datatype: A key of `DTYPES`.
        shape: Dimensions, each 0 or more.
        raw: Little-endian elements in row-major order; BYTES elements each after their length in four bytes.

    Returns:
        An array of that shape: a view of `raw` where alignment allows, and of bytes objects for BYTES.

    Raises:
        TensorError: They do not agree.
    """
    dtype, count = _expect(label, datatype, shape)
    if datatype == "BYTES":
        return _decode_bytes(label, shape, count, raw)
    wanted = count * _RAW_ITEM_BYTES[datatype]
    if len(raw) != wanted:
        raise TensorError(f"{label}: {len(raw)} bytes given, {datatype} {list(shape)} needs {wanted}")
    if datatype == "BF16":
        widened: Array = np.frombuffer(raw, "<u2").astype("<u4") << 16
        return widened.view("<f4").reshape(shape)
    array: Array = np.frombuffer(raw, dtype)
    if not array.flags.aligned:
        # A message's fields begin anywhere; runtimes read aligned memory.
        array = array.copy()
    return array.reshape(shape)


def encode_raw(label: str, datatype: str, array: Array) -> bytes:
    """Write a tensor as raw contents.

    Args:
        label: Names the tensor in errors.
        datatype: A key of `DTYPES`.
        array: Of that datatype, or safely cast to it; float32 for BF16; bytes or text for BYTES.

    Raises:
        TensorError: The array is of another kind.
    """
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise _unknown(label, datatype)
    if datatype == "BYTES":
        return _encode_bytes(label, array)
    if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "safe"):
        raise TensorError(f"{label}: an array of {array.dtype} given, {datatype} needs {dtype}")
    if datatype == "BF16":
        return _to_bf16(np.ascontiguousarray(array, dtype)).tobytes()
    return np.ascontiguousarray(array, dtype).tobytes()


def decode_inputs(
    request: pb.ModelInferRequest, raw: Sequence[bytes | memoryview] | None = None
) -> dict[str, Array]:
    """Read a request's inputs by name.

    Args:
        request: Raw or typed contents.
        raw: The request's raw contents as views of its bytes (`anabranch.proto.scan.raw_contents`); else they are taken
            from the request, which copies them.

    Raises:
        TensorError: An input does not agree with its description.
    """
    return _decode("input", request.inputs, request.raw_input_contents if raw is None else raw)


def decode_outputs(
    response: pb.ModelInferResponse, raw: Sequence[bytes | memoryview] | None = None
) -> dict[str, Array]:
    """Read a response's outputs by name.

    Args:
        response: Raw or typed contents.
        raw: As for `decode_inputs`.

    Raises:
        TensorError: An output does not agree with its description.
    """
    return _decode("output", response.outputs, response.raw_output_contents if raw is None else raw)


def encode_inputs(
    request: pb.ModelInferRequest, arrays: Mapping[str, Array], datatypes: Mapping[str, str] | None = None
) -> None:
    """Add inputs to a request, as raw contents.

    Args:
        request: Gets the inputs.
        arrays: By name.
        datatypes: By name; of the array's own type where absent.

    Raises:
        TensorError: An array has no datatype, or not the given one.
    """
    for name, array in arrays.items():
        datatype = (datatypes or {}).get(name) or datatype_of(array.dtype)
        request.raw_input_contents.append(encode_raw(f"input '{name}'", datatype, array))
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)


def encode_outputs(
    response: pb.ModelInferResponse, arrays: Mapping[str, Array], datatypes: Mapping[str, str] | None = None
) -> None:
    """Add outputs to a response, as raw contents.

    Args:
        response: Gets the outputs.
        arrays: By name.
        datatypes: By name; of the array's own type where absent.

    Raises:
        TensorError: An array has no datatype, or not the given one.
    """
    for name, array in arrays.items():
        datatype = (datatypes or {}).get(name) or datatype_of(array.dtype)
        response.raw_output_contents.append(encode_raw(f"output '{name}'", datatype, array))
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)


def _decode(
    role: str, described: Sequence[_Described], raw: Sequence[bytes | memoryview]
) -> dict[str, Array]:
    if raw and len(raw) != len(described):
        raise TensorError(
            f"{len(raw)} raw contents given for {len(described)} {role}s: give one for each, in order"
        )
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(described):
        label = f"{role} '{tensor.name}'"
        if tensor.name in arrays:
            raise TensorError(f"{label} is given twice")
        if "shared_memory_region" in tensor.parameters:
            raise TensorError(f"{label} is in shared memory, which is not served: send its contents")
        if not raw:
            arrays[tensor.name] = _decode_typed(label, tensor.datatype, tensor.shape, tensor.contents)
        elif tensor.HasField("contents") and tensor.contents.ByteSize():
            # MLServer sends contents without anything in them beside raw ones.
            raise TensorError(f"{label} has raw and typed contents: give one")
        else:
            arrays[tensor.name] = decode_raw(label, tensor.datatype, tensor.shape, raw[index])
    return arrays


def _decode_typed(label: str, datatype: str, shape: Sequence[int], contents: pb.InferTensorContents) -> Array:
    dtype, count = _expect(label, datatype, shape)
    typed = _CONTENTS.get(datatype)
    if typed is None:
        raise TensorError(f"{label}: {datatype} has no typed contents: send raw contents")
    field, read = typed
    values = read(contents)
    if len(values) != count:
        raise TensorError(
            f"{label}: {len(values)} elements in {field}, {datatype} {list(shape)} needs {count}"
        )
    if datatype == "BYTES":
        return _objects(values).reshape(shape)
    if dtype.kind not in "iu" or dtype.itemsize == 8:
        return np.array(values, dtype).reshape(shape)
    # Small integers travel in 32 bits.
    wide: Array = np.array(values, np.int64)
    if count and not np.iinfo(dtype).min <= int(wide.min()) <= int(wide.max()) <= np.iinfo(dtype).max:
        raise TensorError(
            f"{label}: elements from {wide.min()} to {wide.max()}, {datatype} holds {np.iinfo(dtype).min} to "
            f"{np.iinfo(dtype).max}"
        )
    return wide.astype(dtype).reshape(shape)


def _expect(label: str, datatype: str, shape: Sequence[int]) -> tuple[np.dtype[Any], int]:
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise _unknown(label, datatype)
    if any(size < 0 for size in shape):
        raise TensorError(f"{label}: shape {list(shape)} has a negative size: give the actual sizes")
    return dtype, math.prod(shape)


def _decode_bytes(label: str, shape: Sequence[int], count: int, raw: bytes | memoryview) -> Array:
    # An element takes at least its length, so a count beyond that is refused before anything is allocated.
    if 4 * count > len(raw):
        raise TensorError(f"{label}: {len(raw)} bytes given, BYTES {list(shape)} needs at least {4 * count}")
    data = bytes(raw)
    elements: list[bytes] = []
    position = 0
    for _ in range(count):
        start = position + 4
        if start > len(data):
            break
        position = start + struct.unpack_from("<I", data, position)[0]
        if position > len(data):
            break
        elements.append(data[start:position])
    if len(elements) < count or position != len(data):
        raise TensorError(
            f"{label}: {len(data)} bytes given, of which the lengths of {len(elements)} elements account for "
            f"{sum(map(len, elements)) + 4 * len(elements)}; BYTES {list(shape)} needs {count} elements"
        )
    return _objects(elements).reshape(shape)


def _encode_bytes(label: str, array: Array) -> bytes:
    if array.dtype.kind not in "OSU":
        raise TensorError(f"{label}: an array of {array.dtype} given, BYTES needs bytes or text")
    parts: list[bytes] = []
    for element in array.ravel():
        data = element.encode() if isinstance(element, str) else element
        if not isinstance(data, bytes):
            raise TensorError(
                f"{label}: an element of type {type(element).__name__} given, BYTES needs bytes or text"
            )
        parts += (struct.pack("<I", len(data)), data)
    return b"".join(parts)


def _objects(elements: Sequence[bytes]) -> Array:
    # np.array would make a fixed-width type of bytes, and drop their trailing zeros.
    array = np.empty(len(elements), np.object_)
    array[:] = list(elements)
    return array


def _to_bf16(array: Array) -> Array:
    bits = array.view("<u4")
    rounded: Array = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding would carry a NaN's mantissa into infinity or zero: keep it a quiet NaN.
    return np.where(np.isnan(array), (bits >> 16) | 0x40, rounded).astype("<u2")


def _unknown(label: str, datatype: str) -> TensorError:
    return TensorError(f"{label}: datatype {datatype!r} is unknown: use one of {', '.join(DTYPES)}")
