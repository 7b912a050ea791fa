from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch.cli.building import build_variants, read_samples
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed


def test_a_quarter_of_the_samples_calibrates_and_the_others_measure(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.arange(80, dtype=np.float32).reshape(40, 2), label=np.arange(40))
    samples = read_samples(path)
    assert (len(samples.calibration), len(samples.measure)) == (10, 30)
    assert samples.labels == list(range(10, 40))
    assert samples.measure[0]["x"].tolist() == [[20.0, 21.0]]


def test_many_samples_are_not_all_used(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.zeros((5_000, 2), np.float32))
    samples = read_samples(path)
    assert (len(samples.calibration), len(samples.measure), samples.labels) == (128, 1_000, None)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros(3), "y": np.zeros(4)}, "x 3, y 4 rows"),
        ({"x": np.zeros(3), "label": np.zeros(2)}, "x 3 rows, label 2"),
        ({"label": np.zeros(2)}, "no inputs rows, label 2"),
    ],
)
def test_samples_of_different_lengths_are_refused(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, **arrays)
    with pytest.raises(CommandFailed, match=said) as refused:
        read_samples(path)
    assert refused.value.code is ExitCode.BAD_INPUT


def test_a_file_that_is_no_archive_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    path.write_bytes(b"\x80\x04not an archive")
    with pytest.raises(CommandFailed, match=r"no .npz file of plain arrays"):
        read_samples(path)
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CommandFailed, match=r"no .npz file of plain arrays"):
        read_samples(path)


def test_a_missing_model_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"no file nothing\.onnx"):
        build_variants("nothing.onnx", [], "", tmp_path, progress=lambda _: None)
