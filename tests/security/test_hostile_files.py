"""Files of weights that were made to hurt: each is refused in words, by the reader that would have believed it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anabranch.variants.errors import VariantError
from anabranch.variants.llm.gguf_file import GgufFile
from anabranch.variants.safetensors_file import load_tensors


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"w": []},
        {"w": {}},
        tensor([2], [0]),
        tensor([2], [0, 8, 16]),
        tensor([2], ["0", "8"]),
        tensor([2], [0, True]),
        tensor([-1, -2], [0, 8]),
        tensor([2.0], [0, 8]),
        tensor([1 << 62, 4], [0, 0]),  # wraps to 0 in 64 bits
        tensor([1 << 63, 2], [0, 0]),
        tensor([0, 1 << 70], [0, 0]),
        tensor([2], [4, 12]),
        tensor([2], [-8, 0]),
        tensor([2], [0, 8], dtype="OBJECT"),
        tensor([2], [0, 8], dtype={}),
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=repr,
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors(header, bytes(8)))
    with pytest.raises(VariantError):
        load_tensors(path)


@pytest.fixture(scope="module")
def seed(load_module: Callable[[Path], ModuleType]) -> bytes:
    return bytes(load_module(Path(__file__).with_name("parsers.py")).gguf_seed())


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(metadata: bytes = b"", pairs: int = 0, entry: bytes = b"", tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + metadata + entry + bytes(256)


def shaped(*dimensions: int, storage: int = 0) -> bytes:
    head = text("w") + struct.pack("<I", len(dimensions))
    return head + b"".join(struct.pack("<Q", each) for each in dimensions) + struct.pack("<IQ", storage, 0)


@pytest.mark.parametrize(
    "data",
    [
        gguf(text("general.alignment") + struct.pack("<II", 4, 0), pairs=1),
        gguf(text("general.alignment") + struct.pack("<I", 8) + text("x"), pairs=1),
        gguf(text("general.alignment") + struct.pack("<Ii", 5, -32), pairs=1),
        gguf(text("deep") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000, pairs=1),
        gguf(pairs=1 << 60),
        gguf(tensors=1 << 60),
        gguf(struct.pack("<Q", 1 << 60), pairs=1),
        gguf(entry=shaped(*[1] * 100), tensors=1),
    ],
    ids=[
        "alignment 0",
        "alignment text",
        "alignment below 0",
        "deep",
        "pairs",
        "tensors",
        "long text",
        "dimensions",
    ],
)
def test_a_head_that_lies_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(VariantError):
        GgufFile(path)


@pytest.mark.parametrize(
    "entry",
    [
        shaped(1 << 63, 2),
        shaped(1 << 62, 4),
        shaped((1 << 64) - 1),
        shaped(0),
        shaped(storage=2),
        shaped(31, storage=2),
        shaped(32, 1 << 61, storage=8),
        shaped(4, storage=7),
    ],
    ids=[
        "2**64",
        "wraps",
        "all ones",
        "nothing",
        "no rows",
        "part of a block",
        "blocks wrap",
        "unknown storage",
    ],
)
def test_a_tensor_that_lies_is_refused(tmp_path: Path, entry: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(entry=entry, tensors=1))
    with pytest.raises(VariantError):
        GgufFile(path).matrix("w")


def test_the_seed_of_the_fuzzer_is_a_whole_file(tmp_path: Path, seed: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(seed)
    file = GgufFile(path)
    assert {name: file.matrix(name).shape for name in file.tensors} == {"w": (2, 32), "f": (4,)}
