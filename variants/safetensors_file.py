"""Read and write `.safetensors` files with numpy alone: a JSON header, then raw little-endian tensors.

Source:
    The format's description, https://github.com/huggingface/safetensors#format.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anabranch.variants.errors import VariantError
from anabranch.variants.tensors import Array

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    # numpy has no bfloat16: its bits travel as 16-bit integers.
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items() if name != "BF16"}
# The format's own limit.
_MAX_HEADER_BYTES = 100_000_000


def load_tensors(path: Path) -> dict[str, Array]:
    """Map a file's tensors into memory, read-only; a page is read from disk when it is first touched.

    Raises:
        VariantError: The file is not a well-formed safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise VariantError(f"{path} is not a safetensors file: header of {length} bytes in {size} bytes")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = {name: _entry(fields) for name, fields in header.items()}
        except (ValueError, RecursionError, TypeError, AttributeError, KeyError) as error:
            # Whatever the header is instead of what it should be, it is no header.
            raise VariantError(f"{path} has a broken safetensors header: {error!r}") from error
    data = np.memmap(path, mode="r", offset=8 + length) if size > 8 + length else np.empty(0, np.uint8)
    return {name: _view(path, name, entry, data) for name, entry in entries.items()}


class _Entry(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def _entry(fields: Mapping[str, Any]) -> _Entry:
    """A tensor's entry in the header.

    Raises:
        ValueError: A size or an offset is no whole number from 0.
    """
    start, end = fields["data_offsets"]
    shape = tuple(fields["shape"])
    for number in (*shape, start, end):
        if type(number) is not int or number < 0:
            raise ValueError(f"{number!r} in place of a size or an offset")
    return _Entry(str(fields["dtype"]), shape, start, end)


def _view(path: Path, name: str, entry: _Entry, data: Array) -> Array:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise VariantError(f"{path}: tensor {name} has dtype {entry.dtype}, must be one of {sorted(_DTYPES)}")
    # Python's integers: a shape that is a lie must not wrap around to a size that fits.
    wanted = math.prod(entry.shape) * dtype.itemsize
    start, end = entry.start, entry.end
    if not start <= end <= data.nbytes or end - start != wanted:
        raise VariantError(
            f"{path}: tensor {name} needs {wanted} bytes, its range is {start}..{end} of {data.nbytes}"
        )
    try:
        return np.asarray(data[start:end]).view(dtype).reshape(entry.shape)
    except ValueError as error:
        # Nothing in it, and a size that numpy cannot count.
        raise VariantError(f"{path}: tensor {name} has the shape {entry.shape}: {error}") from error


def save_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write tensors in name order, so that equal tensors give equal bytes.

    Raises:
        VariantError: A dtype has no place in the format.
    """
    header: dict[str, Any] = {}
    offset = 0
    for name in sorted(tensors):
        array = tensors[name]
        if array.dtype not in _NAMES:
            raise VariantError(
                f"tensor {name} has dtype {array.dtype}, must be one of {sorted(map(str, _NAMES))}"
            )
        end = offset + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(np.ascontiguousarray(tensors[name]).tobytes())
