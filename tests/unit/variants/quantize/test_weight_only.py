import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from anabranch.variants.errors import RecipeError
from anabranch.variants.quantize.static import linear_layers
from anabranch.variants.quantize.weight_only import quantize_blocks, quantize_weights_only
from anabranch.variants.sessions import OnnxSession


def _matrix(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0.05, 1, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [64, 50])
def test_a_weight_is_off_by_at_most_a_step_of_its_block(bits: int, columns: int) -> None:
    weight = _matrix(5, columns)
    blocks = quantize_blocks(weight, bits=bits, block_size=32)
    steps = np.repeat(blocks.scales, 32, axis=1)[:, :columns]
    assert (np.abs(blocks.dense(columns) - weight) <= steps * 1.001).all()
    assert blocks.codes.max() <= 2**bits - 1


def test_zero_is_represented_exactly() -> None:
    weight = _matrix(3, 32)
    weight[:, ::3] = 0
    assert not quantize_blocks(weight, bits=4, block_size=16).dense(32)[:, ::3].any()


@pytest.mark.parametrize("size", [0, 8, 24])
def test_a_block_size_that_the_operator_does_not_know_is_refused(size: int) -> None:
    with pytest.raises(RecipeError, match="power of two of at least 16"):
        quantize_blocks(_matrix(2, 32), bits=4, block_size=size)


def _gemm(*, columns: int, alpha: float = 1.0) -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["x"], name="look_up"),
            helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="linear", transB=1, alpha=alpha),
        ],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 7])],
        [
            numpy_helper.from_array(_matrix(11, columns), "table"),
            numpy_helper.from_array(_matrix(7, columns), "w"),
            numpy_helper.from_array(np.arange(7, dtype=np.float32), "b"),
        ],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [64, 50])
def test_the_graph_computes_with_the_weights_that_the_codes_stand_for(bits: int, columns: int) -> None:
    model = _gemm(columns=columns)
    result = quantize_weights_only(model, linear_layers(model), bits=bits, block_size=32)
    assert {tensor.name for tensor in result.graph.initializer}.isdisjoint({"w", "table"})
    ids = np.array([0, 4, 10])
    table = _matrix(11, columns)
    largest = np.abs(table).max(axis=1, keepdims=True) / 127
    rows = (np.rint(table / largest) * largest)[ids]
    weight = quantize_blocks(_matrix(7, columns), bits=bits, block_size=32).dense(columns)
    [expected] = [rows @ weight.T + np.arange(7)]
    got = OnnxSession(result.SerializeToString()).run({"ids": ids})["y"]
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_gemm_that_scales_its_product_is_refused() -> None:
    model = _gemm(columns=64, alpha=0.5)
    with pytest.raises(RecipeError, match="scales its product"):
        quantize_weights_only(model, linear_layers(model), bits=4, block_size=32)
