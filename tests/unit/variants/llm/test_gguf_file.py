import struct
from pathlib import Path

import numpy as np
import pytest

from anabranch.variants.errors import VariantError
from anabranch.variants.llm.blocks import Blocks, dense
from anabranch.variants.llm.gguf_file import GgufFile

# One block of the same 32 random numbers in each form, and what `gguf` 0.19 makes of it.
Q4_0 = bytes.fromhex("0935487927452775489c86760a698885386a")
Q4_1 = bytes.fromhex("1d3409c15a8b295638965abfa8970c8baaa64a8c")
Q8_0 = bytes.fromhex("1325000ff2d3e9ce0344e7e1191205d1ff23bce9a0bfa3f4c00e08f781e5fe06b3e8")
FIRST = {
    2: [0.0, 0.314697, -0.314697, -0.944092],
    3: [0.053223, 0.310303, -0.203857, -0.975098],
    8: [0.0, 0.297318, -0.277496, -0.891953],
}
LAST = {2: [-1.573486, -0.629395], 3: [-1.489258, -0.460938], 8: [-1.52623, -0.475708]}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def gguf(
    pairs: list[bytes], tensors: list[tuple[str, tuple[int, ...], int, bytes]], version: int = 3
) -> bytes:
    """A file as the format's description says; shapes are given rows first."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    body = b""
    for name, shape, storage, data in tensors:
        head += text(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        head += struct.pack("<IQ", storage, len(body))
        body += data + b"\0" * (-len(data) % 32)
    return head + b"\0" * (-len(head) % 32) + body


def opened(tmp_path: Path, data: bytes) -> GgufFile:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return GgufFile(path)


def test_metadata_of_every_kind_is_read(tmp_path: Path) -> None:
    words = struct.pack("<IQ", 8, 2) + text("a") + text("é")
    numbers = struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, -2, 3)
    file = opened(
        tmp_path,
        gguf(
            [
                pair("name", 8, text("tiny")),
                pair("layers", 4, struct.pack("<I", 30)),
                pair("base", 6, struct.pack("<f", 0.5)),
                pair("tied", 7, b"\x01"),
                pair("words", 9, words),
                pair("kinds", 9, numbers),
            ],
            [],
        ),
    )
    assert file.metadata == {
        "name": "tiny",
        "layers": 30,
        "base": 0.5,
        "tied": True,
        "words": ["a", "é"],
        "kinds": [1, -2, 3],
    }


@pytest.mark.parametrize(("storage", "data"), [(2, Q4_0), (3, Q4_1), (8, Q8_0)])
def test_blocks_hold_the_weights_that_the_reference_reads(tmp_path: Path, storage: int, data: bytes) -> None:
    file = opened(tmp_path, gguf([], [("w", (2, 32), storage, data + data)]))
    matrix = file.matrix("w")
    assert isinstance(matrix, Blocks)
    assert matrix.shape == (2, 32)
    row = matrix.dense()[1]
    np.testing.assert_allclose(row[:4], FIRST[storage], atol=1e-6)
    np.testing.assert_allclose(row[-2:], LAST[storage], atol=1e-6)


def test_plain_tensors_are_read_rows_first_wherever_they_lie(tmp_path: Path) -> None:
    whole = np.arange(6, dtype=np.float32).reshape(2, 3)
    half = np.array([0.5, -2.0], np.float16)
    tensors = [("half", (2,), 1, half.tobytes()), ("whole", (2, 3), 0, whole.tobytes())]
    file = opened(tmp_path, gguf([], tensors))
    assert np.array_equal(dense(file.matrix("whole")), whole)
    assert dense(file.matrix("half")).tolist() == [0.5, -2.0]
    assert dict(file.tensors) == {"half": (2,), "whole": (2, 3)}


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(VariantError, match="no tensor 'w'"):
        opened(tmp_path, gguf([], [])).matrix("w")


def test_an_unknown_storage_is_refused_with_what_is_known(tmp_path: Path) -> None:
    file = opened(tmp_path, gguf([], [("w", (1, 32), 14, Q4_0)]))
    with pytest.raises(VariantError, match="stored as type 14, known are F32, F16, Q4_0, Q4_1, Q8_0"):
        file.matrix("w")


def test_a_file_that_ends_inside_a_tensor_is_refused(tmp_path: Path) -> None:
    data = gguf([], [("w", (1, 32), 3, Q4_1)])
    file = opened(tmp_path, data[:-20])
    with pytest.raises(VariantError, match="ends inside tensor w: 12 of 20 bytes"):
        file.matrix("w")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no GGUF file: it begins with b''"),
        (b"PK\x03\x04rest", "is no GGUF file"),
        (gguf([], [], version=1), "of version 1, must be 2 or 3"),
        (gguf([pair("x", 4, b"\0\0\0\0")], [])[:30], "damaged"),
        (gguf([pair("x", 77, b"")], []), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "damaged"),
    ],
)
def test_what_is_no_whole_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(VariantError, match=message):
        opened(tmp_path, data)
