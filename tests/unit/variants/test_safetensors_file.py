from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anabranch.variants.errors import VariantError
from anabranch.variants.safetensors_file import load_tensors, save_tensors
from anabranch.variants.tensors import Array

TENSORS: dict[str, Array] = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(7, dtype=np.int64),
    "bytes": np.array([-3, 4], dtype=np.int8),
    "none": np.zeros((0, 5), dtype=np.float16),
}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", TENSORS)
    read = load_tensors(tmp_path / "x.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_the_reference_library_reads_what_is_written(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", TENSORS)
    read = load_file(tmp_path / "x.safetensors")
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(read[name], array)


def test_files_of_the_reference_library_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"made": "elsewhere"})
    read = load_tensors(tmp_path / "x.safetensors")
    assert read.keys() == TENSORS.keys()
    np.testing.assert_array_equal(read["b.weight"], TENSORS["b.weight"])


def test_equal_tensors_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", TENSORS)
    save_tensors(tmp_path / "y", {name: TENSORS[name] for name in reversed(TENSORS)})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x05",
        (999).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{]",
        (66).to_bytes(8, "little")
        + b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}           abcd',
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(VariantError):
        load_tensors(tmp_path / "x")
