"""A file of a person's own as a further variant of a model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from anabranch.bandit.verdicts import Outcome
from anabranch.variants.added import add_onnx
from anabranch.variants.build import build
from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import load_manifest
from anabranch.variants.own_models import source_from_onnx
from anabranch.variants.runtime import load_variant
from anabranch.variants.tensors import Request

WEIGHTS = np.array([[1, 0, -1], [0, 1, -1], [1, -1, 0], [0, 0, 1]], np.float32)


def _file(
    path: Path, weights: np.ndarray[tuple[int, ...], np.dtype[np.float32]], *, output: str = "scores"
) -> Path:
    """A linear classifier as scikit-learn exports it: the class first, then its scores."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], [output], name="linear"),
            helper.make_node("ArgMax", [output], ["label"], name="largest", axis=1, keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 3]),
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def _data(count: int) -> tuple[list[Request], list[int]]:
    rows = np.random.default_rng(1).uniform(-1, 1, (count, 4)).astype(np.float32)
    return [{"x": row[None]} for row in rows], [int(found) for found in (rows @ WEIGHTS).argmax(axis=1)]


def _silent(_: str) -> None:
    return


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model `m` whose reference is right in every case."""
    source = source_from_onnx(_file(tmp_path / "m.onnx", WEIGHTS), "m")
    build(source, ["onnx-fp32"], tmp_path / "models", threads=1)
    return tmp_path / "models"


def _add(
    root: Path, path: Path, name: str, samples: Sequence[Request] = (), labels: Sequence[int] | None = None
) -> list[str]:
    told: list[str] = []
    add_onnx(path, "m", name, root, samples=samples, labels=labels, tell=told.append)
    return told


def test_a_worse_file_is_measured_beside_the_reference_and_fails_the_gate(root: Path, tmp_path: Path) -> None:
    samples, labels = _data(400)
    _add(root, _file(tmp_path / "bad.onnx", np.roll(WEIGHTS, 1, axis=1)), "hasty", samples, labels)
    made = load_manifest(root / "m" / "hasty")
    assert made.variant == "hasty"
    assert made.parity is not None
    assert made.parity.top1_agreement == 0
    assert made.task is not None
    assert made.task.value == 0
    assert made.gate is not None
    assert made.gate.outcome is Outcome.FAIL
    assert [row.batch_size for row in made.latency] == [1, 8]
    [answer] = load_variant(root / "m" / "hasty").infer([samples[0]])
    assert answer["label"].tolist() != labels[:1]


def test_without_labels_another_answer_may_be_a_better_one(root: Path, tmp_path: Path) -> None:
    samples, _ = _data(400)
    told = _add(root, _file(tmp_path / "other.onnx", np.roll(WEIGHTS, 1, axis=1)), "other", samples)
    made = load_manifest(root / "m" / "other")
    assert made.gate is None
    assert made.parity is not None
    assert any("give labels" in line for line in told)


def test_a_file_of_the_same_name_replaces_the_one_before(root: Path, tmp_path: Path) -> None:
    _add(root, _file(tmp_path / "a.onnx", WEIGHTS), "mine")
    first = load_manifest(root / "m" / "mine")
    _add(root, _file(tmp_path / "b.onnx", WEIGHTS * 2), "mine")
    assert load_manifest(root / "m" / "mine").files != first.files


def test_other_tensors_are_refused_by_name(root: Path, tmp_path: Path) -> None:
    path = _file(tmp_path / "x.onnx", WEIGHTS, output="probabilities")
    with pytest.raises(VariantError, match="not those of m/onnx-fp32: output 'scores' is missing there"):
        _add(root, path, "mine")
    assert not (root / "m" / "mine").exists()


def test_names_that_are_not_free_are_refused(root: Path, tmp_path: Path) -> None:
    path = _file(tmp_path / "x.onnx", WEIGHTS)
    with pytest.raises(VariantError, match="anabranch build` makes"):
        _add(root, path, "onnx-fp32")
    with pytest.raises(VariantError, match="must be letters"):
        _add(root, path, "../mine")
    with pytest.raises(VariantError, match="build it first"):
        add_onnx(path, "n", "mine", root, tell=_silent)
    assert not (root / "n").exists()
