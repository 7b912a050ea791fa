from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from anabranch.variants.errors import BuildError, RecipeError
from anabranch.variants.models import PreparedModel
from anabranch.variants.quantize.calibrate import Range
from anabranch.variants.quantize.rows import quantize_rows
from anabranch.variants.quantize.static import (
    activation_scale,
    linear_layers,
    quantize_static,
    quantize_weight,
)
from anabranch.variants.sessions import OnnxSession


@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_is_off_by_at_most_half_a_step_of_its_channel(axis: int) -> None:
    weight = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    values, scales = quantize_weight(weight, axis)
    steps = scales[:, None] if axis == 0 else scales[None, :]
    assert scales.shape == (weight.shape[axis],)
    assert (np.abs(values * steps - weight) <= steps / 2 + 1e-7).all()
    assert (np.abs(values).max(axis=1 - axis) == 127).all()


def test_a_channel_of_zeros_stays_zero() -> None:
    values, scales = quantize_weight(np.zeros((3, 2), np.float32), 1)
    assert not values.any()
    assert scales.tolist() == [1.0, 1.0]


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_zero_is_represented_exactly_whatever_the_range(low: float, high: float) -> None:
    scale, zero = activation_scale(Range(low=low, high=high))
    assert scale > 0
    assert (round(0.0 / float(scale)) + int(zero) - int(zero)) * scale == 0
    assert 0 <= zero <= 255


def test_only_the_edge_into_a_linear_layer_is_rewired(tiny_encoder: PreparedModel) -> None:
    layers = linear_layers(tiny_encoder.graph, tiny_encoder.keep)
    ranges = {layer.source: Range(low=-4, high=4) for layer in layers}
    before = {node.name: list(node.input) for node in tiny_encoder.graph.graph.node}
    after = {
        node.name: list(node.input) for node in quantize_static(tiny_encoder.graph, layers, ranges).graph.node
    }
    changed = {name for name, inputs in before.items() if after[name] != inputs}
    assert changed == {layer.node for layer in layers}
    assert len(layers) == 12


def test_the_source_graph_is_not_touched(tiny_encoder: PreparedModel) -> None:
    before = tiny_encoder.graph.SerializeToString()
    layers = linear_layers(tiny_encoder.graph)
    quantize_static(tiny_encoder.graph, layers, {layer.source: Range(low=-1, high=1) for layer in layers})
    assert tiny_encoder.graph.SerializeToString() == before


def _gemm(weight: np.ndarray, **factors: Any) -> onnx.ModelProto:
    bias = np.array([1.0, -200.0, 0.005], np.float32)
    body = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="gemm", transB=1, **factors)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("ranges", ["static", "row"])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_gemm_with_a_transposed_weight_is_quantized_along_its_outputs(ranges: str, alpha: float) -> None:
    rng = np.random.default_rng(4)
    weight = (rng.normal(size=(3, 8)) * np.array([[1], [100], [0.01]])).astype(np.float32)
    model = _gemm(weight, alpha=alpha)
    layers = linear_layers(model)
    x = rng.uniform(-1, 1, (5, 8)).astype(np.float32)
    if ranges == "static":
        quantized = quantize_static(model, layers, {"x": Range(low=-1, high=1)})
    else:
        quantized = quantize_rows(model, layers)
    result = OnnxSession(quantized.SerializeToString()).run({"x": x})["y"]
    reference = OnnxSession(model.SerializeToString()).run({"x": x})["y"]
    assert [layer.channel_axis for layer in layers] == [0]
    assert (np.abs(result - reference) / np.abs(weight).max(axis=1) < 0.05).all()
    assert not np.array_equal(result, reference)


def test_a_gemm_that_scales_its_bias_is_refused_a_range_a_row() -> None:
    model = _gemm(np.ones((3, 8), np.float32), beta=2.0)
    with pytest.raises(RecipeError, match=r"scales its bias by 2\.0"):
        quantize_rows(model, linear_layers(model))


def test_a_row_of_zeros_is_not_divided_by_zero() -> None:
    model = _gemm(np.ones((3, 8), np.float32))
    quantized = quantize_rows(model, linear_layers(model))
    result = OnnxSession(quantized.SerializeToString()).run({"x": np.zeros((2, 8), np.float32)})["y"]
    np.testing.assert_allclose(result[1], [1.0, -200.0, 0.005], rtol=1e-6)


def test_a_graph_without_linear_layers_is_refused(tiny_encoder: PreparedModel) -> None:
    with pytest.raises(BuildError, match="no MatMul or Gemm"):
        quantize_static(tiny_encoder.graph, (), {})
