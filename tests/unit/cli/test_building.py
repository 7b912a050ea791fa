import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from anabranch.cli.building import BuildRequest, build_variants, read_samples, wanted_specs
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.recipe_list import parse_drop, recipe_rows
from anabranch.variants.errors import RecipeError
from anabranch.variants.recipes import Device, Engine, all_specs


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
        build_variants(BuildRequest(source="nothing.onnx", root=tmp_path), lambda _: None)


def test_recipes_are_named_with_an_engine_and_a_device() -> None:
    request = BuildRequest(
        source="minilm", root=Path(), recipes=["fp16"], engine=Engine.TORCH_COMPILE, device=Device.CUDA
    )
    assert [spec.name for spec in wanted_specs(request)] == ["torch-compile-fp16-cuda"]


def test_a_largest_loss_turns_mixed_into_a_search() -> None:
    request = BuildRequest(source="minilm", root=Path(), recipes=["fp32", "mixed"], max_accuracy_drop=0.005)
    assert [spec.name for spec in wanted_specs(request)] == ["onnx-fp32", "onnx-mixed-within-0.5"]
    with pytest.raises(RecipeError, match="add --recipe mixed"):
        wanted_specs(BuildRequest(source="minilm", root=Path(), recipes=["fp32"], max_accuracy_drop=0.005))


@pytest.mark.parametrize(("text", "share"), [("0.5%", 0.005), ("2%", 0.02), ("", None)])
def test_a_largest_loss_is_a_percentage(text: str, share: float | None) -> None:
    assert parse_drop(text) == share


@pytest.mark.parametrize("text", ["0.5", "0%", "100%", "little%"])
def test_a_largest_loss_that_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(CommandFailed, match="must be a percentage"):
        parse_drop(text)


def test_every_recipe_is_listed_with_what_it_is_and_why_it_does_not_run_here(shell: Any) -> None:
    ran = shell("build", "--list-recipes", "-o", "json")
    rows = {row["variant"]: row for row in json.loads(ran.out)}
    assert rows["onnx-int4-weight-only"]["runs_here"]
    assert rows["onnx-int4-weight-only"]["what"].startswith("INT4 weights in blocks")
    assert rows["onnx-bf16"]["reason"].startswith("ONNX Runtime has no bfloat16")
    assert {spec.name for spec in all_specs()} <= rows.keys()
    table = shell("build", "--list-recipes").out
    assert "onnx-tf32" in table
    assert "a mode of NVIDIA GPUs" in table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build"], "nothing to build"),
        (["build", "minilm", "--engine", "tensorrt"], "must be one of onnx, torch, torch-compile"),
        (["build", "minilm", "--data", "x.csv"], "--data is for the folder of an encoder"),
        (["build", "."], "its texts are missing"),
        (["build", "minilm", "--variant", "onnx-int3"], "names no engine and recipe"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_fetched(
    shell: Any, arguments: list[str], said: str
) -> None:
    ran = shell(*arguments)
    assert ran.code == 2
    assert said in ran.err


def test_a_persons_file_is_built_and_reported_as_json(shell: Any, tmp_path: Path, digits_module: Any) -> None:
    path = tmp_path / "digits.onnx"
    digits_module.write_digits_onnx(path)
    ran = shell("build", str(path), "--models", str(tmp_path), "--recipe", "fp32", "-o", "json")
    assert ran.code == 0
    assert [manifest["variant"] for manifest in json.loads(ran.out)] == ["onnx-fp32"]


def _without_weights(path: Path) -> Path:
    """A graph that no recipe can reduce, as scikit-learn's trees and linear models are: its numbers are attributes."""
    body = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["scores"], name="softmax")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
    )
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def test_a_default_recipe_that_the_file_cannot_take_is_left_out_and_said(tmp_path: Path) -> None:
    path, told = _without_weights(tmp_path / "tree.onnx"), list[str]()
    [made] = build_variants(BuildRequest(source=str(path), root=tmp_path / "models"), told.append)
    assert made.variant == "onnx-fp32"
    assert [line for line in told if "left out" in line] == [
        "onnx-fp16: left out, the graph holds no FP32 weights: fp16 would change nothing",
        "onnx-int8-dynamic: left out, the graph has no MatMul or Gemm on constant 2-D weights: nothing can be quantized",
    ]


def test_a_recipe_that_was_asked_for_is_not_left_out(tmp_path: Path) -> None:
    path = _without_weights(tmp_path / "tree.onnx")
    asked = BuildRequest(source=str(path), root=tmp_path / "models", variants=["onnx-fp16"])
    with pytest.raises(CommandFailed, match="no FP32 weights"):
        build_variants(asked, lambda _: None)


def test_recipes_of_language_models_are_in_the_list_and_say_so() -> None:
    rows = {row.variant: row for row in recipe_rows()}
    assert rows["onnx-kv-sinks"].what.startswith("Language models: ")
    assert rows["torch-tensor-parallel-2"].engine == "torch"
    # Those that every model has are there once.
    assert not rows["onnx-fp16"].what.startswith("Language models")


def test_a_recipe_of_another_kind_of_model_is_refused_for_the_language_model(tmp_path: Path) -> None:
    request = BuildRequest(source="smollm2", root=tmp_path, recipes=["int8-static"])
    with pytest.raises(CommandFailed, match="'int8-static' is none of a language model"):
        build_variants(request, lambda _: None)


def test_a_function_may_make_a_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(__file__).parents[2] / "data"
    monkeypatch.syspath_prepend(str(data))
    request = BuildRequest(source="tiny_language_model:source", root=tmp_path, recipes=["fp16"])
    (manifest,) = build_variants(request, lambda _: None)
    assert (manifest.model, manifest.variant) == ("tiny", "onnx-fp16")
    assert manifest.generation is not None
    with pytest.raises(CommandFailed, match="tiny brings its own"):
        build_variants(replace(request, samples=tmp_path), lambda _: None)
