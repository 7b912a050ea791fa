from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from anabranch.variants.build import build
from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import load_manifest
from anabranch.variants.own_models import import_onnx, source_from_onnx
from anabranch.variants.runtime import load_variant
from anabranch.variants.tensors import Datatype, Request, TensorSpec


def _model(path: Path, *, out: list[int | str], unnamed: bool = False) -> Path:
    """A graph of one linear layer: x [batch, 4] to y, declared with the shape `out`."""
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="" if unnamed else "linear")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def test_an_imported_file_is_described_and_served(digits_onnx: Path, tmp_path: Path) -> None:
    manifest = import_onnx(digits_onnx, "digits", "mine", tmp_path)
    assert manifest.signatures[0].inputs == (
        TensorSpec(name="pixels", datatype=Datatype.FP32, shape=(-1, 64)),
    )
    assert manifest.outputs == (TensorSpec(name="logits", datatype=Datatype.FP32, shape=(-1, 10)),)
    assert manifest.recipe == {"name": "imported"}
    variant = load_variant(tmp_path / "digits" / "mine")
    [answer] = variant.infer([{"pixels": np.zeros((3, 64), np.float32)}])
    assert answer["logits"].shape == (3, 10)


def test_a_second_import_replaces_the_first(digits_onnx: Path, tmp_path: Path) -> None:
    first = import_onnx(digits_onnx, "m", "mine", tmp_path)
    second = import_onnx(_model(tmp_path / "x.onnx", out=["batch", 3]), "m", "mine", tmp_path)
    assert load_manifest(tmp_path / "m" / "mine") == second != first
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["mine"]


def test_tensors_kept_beside_the_graph_come_along(tmp_path: Path) -> None:
    path = _model(tmp_path / "x.onnx", out=["batch", 3])
    onnx.save(
        onnx.load(str(path)), str(path), save_as_external_data=True, location="x.data", size_threshold=0
    )
    manifest = import_onnx(path, "m", "mine", tmp_path / "root")
    assert {file.path for file in manifest.files} == {"x.onnx", "x.data"}
    (tmp_path / "x.data").unlink()
    load_variant(tmp_path / "root" / "m" / "mine").warm()


def test_tensors_kept_elsewhere_are_refused(tmp_path: Path) -> None:
    path = _model(tmp_path / "x.onnx", out=["batch", 3])
    model = onnx.load(str(path))
    [tensor] = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(VariantError, match="beside the model"):
        import_onnx(path, "m", "mine", tmp_path / "root")


def test_a_graph_that_declares_a_wrong_output_is_refused(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Unique", ["x"], ["y"], name="unique")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [7])],
    )
    path = tmp_path / "x.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    with pytest.raises(VariantError, match=r"output 'y' has shape \[1\], must be \[7\]"):
        import_onnx(path, "m", "mine", tmp_path / "root")
    assert not (tmp_path / "root" / "m" / "mine").exists()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(VariantError, match="not a valid ONNX model"):
        import_onnx(tmp_path / "x.onnx", "m", "mine", tmp_path / "root")
    with pytest.raises(VariantError, match="no file"):
        import_onnx(tmp_path / "absent.onnx", "m", "mine", tmp_path / "root")


@pytest.mark.parametrize("name", ["", "../m", ".hidden", "a b", "a/b"])
def test_a_name_that_cannot_be_a_folder_is_refused(digits_onnx: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(VariantError, match="must be letters"):
        import_onnx(digits_onnx, name, "mine", tmp_path)
    with pytest.raises(VariantError, match="must be letters"):
        import_onnx(digits_onnx, "m", name, tmp_path)


def test_recipes_apply_to_a_graph_with_unnamed_nodes(tmp_path: Path) -> None:
    path = _model(tmp_path / "x.onnx", out=["batch", 3], unnamed=True)
    rows = np.random.default_rng(1).uniform(-1, 1, (40, 4)).astype(np.float32)
    samples: list[Request] = [{"x": row[None]} for row in rows]
    source = source_from_onnx(path, "m", samples=samples[:20], calibration=samples[20:])
    for manifest in build(
        source,
        ["onnx-fp32", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static"],
        tmp_path / "root",
        threads=1,
    ):
        assert manifest.parity is not None
        assert manifest.parity.cosine_min > 0.99
        assert manifest.task is None


def _labelled(path: Path, outputs: list[str]) -> Path:
    """A linear classifier as scikit-learn exports it: the class as an integer, then its scores."""
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    declared = {
        "label": helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        "scores": helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3]),
    }
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"], name="linear"),
            helper.make_node("ArgMax", ["scores"], ["label"], name="largest", axis=1, keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [declared[name] for name in outputs],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def _rows_and_classes(count: int) -> tuple[list[Request], list[int]]:
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    rows = np.random.default_rng(1).uniform(-1, 1, (count, 4)).astype(np.float32)
    return [{"x": row[None]} for row in rows], [int(found) for found in (rows @ weight).argmax(axis=1)]


def test_classes_are_read_from_the_scores_where_the_class_itself_comes_first(tmp_path: Path) -> None:
    path = _labelled(tmp_path / "x.onnx", ["label", "scores"])
    samples, classes = _rows_and_classes(60)
    wrong = [(right + 1) % 3 for right in classes[:15]]
    source = source_from_onnx(path, "m", samples=samples, labels=wrong + classes[15:])
    reference, small = build(source, ["onnx-fp32", "onnx-int8-dynamic"], tmp_path / "root", threads=1)
    assert reference.task is not None
    assert reference.task.value == 0.75
    assert small.parity is not None
    assert small.parity.cosine_tensor == "scores"
    assert small.gate is not None


def test_labels_for_a_model_without_scores_are_refused(tmp_path: Path) -> None:
    path = _labelled(tmp_path / "x.onnx", ["label"])
    samples, classes = _rows_and_classes(20)
    with pytest.raises(VariantError, match="leave the labels out"):
        build(
            source_from_onnx(path, "m", samples=samples, labels=classes),
            ["onnx-fp32"],
            tmp_path / "root",
            threads=1,
        )
    [manifest] = build(
        source_from_onnx(path, "m", samples=samples), ["onnx-int8-dynamic"], tmp_path / "root", threads=1
    )
    assert manifest.parity is not None
    assert manifest.parity.top1_agreement > 0.5
    assert manifest.gate is None


def test_samples_that_do_not_fit_are_refused(digits_onnx: Path, tmp_path: Path) -> None:
    two_rows = source_from_onnx(digits_onnx, "m", samples=[{"pixels": np.zeros((2, 64), np.float32)}])
    with pytest.raises(VariantError, match="2 rows, must have 1"):
        build(two_rows, ["onnx-fp32"], tmp_path, threads=1)
    with pytest.raises(VariantError, match="1 labels for 0 samples"):
        source_from_onnx(digits_onnx, "m", labels=[1])


def test_other_samples_make_another_source(digits_onnx: Path) -> None:
    one = source_from_onnx(digits_onnx, "m", samples=[{"pixels": np.zeros((1, 64), np.float32)}])
    two = source_from_onnx(digits_onnx, "m", samples=[{"pixels": np.ones((1, 64), np.float32)}])
    assert one.identity != two.identity
