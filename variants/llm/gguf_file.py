"""Read GGUF files: metadata, and tensors in the blocks in which they are stored.

Source:
    The format's description, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and `ggml-quants.h` for the
    blocks.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import VariantError
from anabranch.variants.llm.blocks import BLOCK, Blocks, Matrix

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
# Far above any model's: a damaged count must not allocate the machine's memory.
_MOST_ITEMS = 10_000_000
# The format's own limit is 4; numpy's is 64.
_MOST_DIMENSIONS = 8


class Storage(IntEnum):
    """How a tensor's elements are stored; the number is in the file."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q8_0 = 8


_BLOCK_BYTES = {Storage.Q4_0: 18, Storage.Q4_1: 20, Storage.Q8_0: 34}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    shape: tuple[int, ...]
    storage: int
    offset: int


class GgufFile:
    """A GGUF file mapped into memory; a tensor is read when it is asked for.

    Args:
        path: The file.

    Raises:
        VariantError: It is no GGUF file of version 2 or 3, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data: NDArray[np.uint8] = (
            np.memmap(path, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
        )
        try:
            self.metadata, self._entries, self._start = self._read_head()
        except (struct.error, UnicodeDecodeError, KeyError, IndexError, ValueError, RecursionError) as error:
            raise VariantError(f"{path} is a damaged GGUF file: {error!r}") from error

    @property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes by name, rows first."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def matrix(self, name: str) -> Matrix:
        """A tensor in its own blocks where it has any, otherwise as FP32.

        Raises:
            VariantError: There is no such tensor, its bytes are not there, or its storage is not known here.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise VariantError(f"{self._path} has no tensor {name!r}: it is not the model that was expected")
        if entry.storage not in set(Storage):
            known = ", ".join(storage.name for storage in Storage)
            raise VariantError(f"{self._path}: {name} is stored as type {entry.storage}, known are {known}")
        storage = Storage(entry.storage)
        # Python's integers: a shape that is a lie must not wrap around to a size that fits.
        count = math.prod(entry.shape)
        if not count:
            raise VariantError(f"{self._path}: {name} has the shape {entry.shape}, and so no elements")
        match storage:
            case Storage.F32:
                return self._bytes(name, entry, count * 4).view("<f4").reshape(entry.shape)
            case Storage.F16:
                return self._bytes(name, entry, count * 2).view("<f2").astype(np.float32).reshape(entry.shape)
            case Storage.Q4_0 | Storage.Q4_1 | Storage.Q8_0:
                if not entry.shape or entry.shape[-1] % BLOCK:
                    raise VariantError(
                        f"{self._path}: {name} has the shape {entry.shape}, whose rows are no multiple of {BLOCK}"
                    )
                size = _BLOCK_BYTES[storage]
                raw = self._bytes(name, entry, count // BLOCK * size).reshape(-1, size)
                return _blocks(storage, raw, entry.shape)

    def _bytes(self, name: str, entry: _Entry, size: int) -> NDArray[np.uint8]:
        start = self._start + entry.offset
        found: NDArray[np.uint8] = np.array(self._data[start : start + size])
        if len(found) != size:
            raise VariantError(
                f"{self._path} ends inside tensor {name}: {len(found)} of {size} bytes; fetch it again"
            )
        return found

    def _read_head(self) -> tuple[dict[str, Any], dict[str, _Entry], int]:
        magic = bytes(self._data[:4])
        if magic != _MAGIC:
            raise VariantError(f"{self._path} is no GGUF file: it begins with {magic!r}")
        cursor = _Cursor(self._data, 4)
        version = cursor.scalar("<I")
        if version not in _VERSIONS:
            raise VariantError(f"{self._path} is a GGUF file of version {version}, must be 2 or 3")
        tensors, pairs = cursor.count(), cursor.count()
        metadata = {cursor.text(): cursor.value(cursor.scalar("<I")) for _ in range(pairs)}
        entries: dict[str, _Entry] = {}
        for _ in range(tensors):
            name = cursor.text()
            dimensions = [cursor.scalar("<Q") for _ in range(cursor.dimensions())]
            entries[name] = _Entry(
                # The file counts the fastest dimension first.
                shape=tuple(reversed(dimensions)),
                storage=cursor.scalar("<I"),
                offset=cursor.scalar("<Q"),
            )
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"general.alignment is {alignment!r}")
        return metadata, entries, -(-cursor.position // alignment) * alignment


class _Cursor:
    """Reads the head of a file value by value."""

    def __init__(self, data: NDArray[np.uint8], position: int) -> None:
        self._data = data
        self.position = position

    def take(self, size: int) -> bytes:
        found = bytes(self._data[self.position : self.position + size])
        if len(found) != size:
            raise IndexError(f"{size} bytes expected at {self.position}, {len(found)} are there")
        self.position += size
        return found

    def scalar(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self) -> int:
        items: int = self.scalar("<Q")
        if items > _MOST_ITEMS:
            raise IndexError(f"a count of {items} at {self.position}")
        return items

    def dimensions(self) -> int:
        found: int = self.scalar("<I")
        if found > _MOST_DIMENSIONS:
            raise IndexError(f"{found} dimensions at {self.position}")
        return found

    def text(self) -> str:
        return self.take(self.count()).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        inner, items = self.scalar("<I"), self.count()
        if inner in (_STRING, _ARRAY):
            return [self.value(inner) for _ in range(items)]
        form = _SCALARS[inner]
        raw = self.take(items * struct.calcsize(form))
        return [value for (value,) in struct.iter_unpack(form, raw)]


def _blocks(storage: Storage, raw: NDArray[np.uint8], shape: tuple[int, ...]) -> Blocks:
    """Codes, scales and minimums of stored blocks; `raw` has one block a row."""
    rows, columns = int(np.prod(shape[:-1], dtype=np.int64)), shape[-1]
    scales = raw[:, 0:2].copy().view("<f2").astype(np.float32).reshape(rows, -1)
    match storage:
        case Storage.Q4_0:
            codes, minimums = _halves(raw[:, 2:]), -8 * scales
        case Storage.Q4_1:
            codes = _halves(raw[:, 4:])
            minimums = raw[:, 2:4].copy().view("<f2").astype(np.float32).reshape(rows, -1)
        case _:
            # Signed bytes, moved up so that codes are not negative.
            codes, minimums = raw[:, 2:] ^ np.uint8(0x80), -128 * scales
    bits = 8 if storage is Storage.Q8_0 else 4
    return Blocks(bits=bits, codes=codes.reshape(rows, columns), scales=scales, minimums=minimums)


def _halves(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first 16 codes of a block are the lower halves of its bytes, the others the upper ones."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1)
