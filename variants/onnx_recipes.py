"""Build ONNX artifacts: one function from a prepared model and a recipe to a graph that is verified to be it."""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import assert_never

import onnx
from onnx import TensorProto

from anabranch.variants.errors import BuildError, RecipeError
from anabranch.variants.models import PreparedModel
from anabranch.variants.quantize.calibrate import Observed, choose_ranges, observe
from anabranch.variants.quantize.rows import quantize_rows
from anabranch.variants.quantize.static import linear_layers, quantize_static
from anabranch.variants.recipes import (
    Bf16,
    Fp16,
    Fp32,
    Imported,
    Int8Dynamic,
    Int8Static,
    Mixed,
    Ranges,
    Recipe,
)

_INTEGER_PRODUCTS = ("MatMulInteger", "DynamicQuantizeMatMul")


class OnnxBuilder:
    """Builds recipes of one model; what calibration saw is kept for the next static recipe."""

    def __init__(self, model: PreparedModel) -> None:
        self._model = model
        self._observed: dict[int, dict[str, Observed]] = {}

    def build(self, recipe: Recipe) -> onnx.ModelProto:
        """The recipe's graph.

        Raises:
            RecipeError: The model cannot take this recipe.
            BuildError: The result is not what the recipe promises.
        """
        match recipe:
            case Fp32() | Imported():
                return self._model.graph
            case Fp16():
                return self._half()
            case Int8Dynamic():
                return self._dynamic(recipe.ranges)
            case Int8Static():
                return self._static(recipe)
            case Mixed():
                return self._mixed()
            case Bf16():
                raise RecipeError("ONNX Runtime has no bfloat16 kernels for these operators: use fp16")
            case _:
                assert_never(recipe)

    def _half(self) -> onnx.ModelProto:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        copy = onnx.ModelProto()
        copy.CopyFrom(self._model.graph)
        if not any(tensor.data_type == TensorProto.FLOAT for tensor in copy.graph.initializer):
            raise RecipeError("the graph holds no FP32 weights: fp16 would change nothing")
        result: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
        if not any(tensor.data_type == TensorProto.FLOAT16 for tensor in result.graph.initializer):
            raise BuildError(
                "no weight became FP16: the graph keeps its weights where the converter cannot reach"
            )
        return result

    def _dynamic(self, ranges: Ranges) -> onnx.ModelProto:
        layers = linear_layers(self._model.graph, self._model.keep)
        if not layers:
            raise RecipeError(
                "the graph has no MatMul or Gemm on constant 2-D weights: nothing can become INT8"
            )
        tables = {node.name for node in self._model.graph.graph.node if node.op_type == "Gather"}
        match ranges:
            case Ranges.TENSOR:
                result = _quantize_dynamic(self._model.graph, tables | {layer.node for layer in layers})
            case Ranges.ROW:
                result = quantize_rows(self._model.graph, layers)
                if tables:
                    result = _quantize_dynamic(result, tables)
            case _:
                assert_never(ranges)
        _require_products(result, len(layers))
        return result

    def _static(self, recipe: Int8Static) -> onnx.ModelProto:
        layers = linear_layers(self._model.graph, self._model.keep)
        if not self._model.calibration:
            raise RecipeError(
                f"{recipe.name} needs calibration requests, the model has 0: give real inputs (anabranch build --samples)"
            )
        seen = self._observed.get(recipe.samples)
        if seen is None:
            sources = sorted({layer.source for layer in layers})
            seen = observe(self._model.graph, sources, self._model.calibration[: recipe.samples])
            self._observed[recipe.samples] = seen
        return quantize_static(self._model.graph, layers, choose_ranges(seen, recipe.calibration))

    def _mixed(self) -> onnx.ModelProto:
        if self._model.half_attention is None:
            raise RecipeError(
                "mixed needs a model with attention blocks, this one has none: use fp16 or int8-dynamic"
            )
        result = _quantize_dynamic(self._model.half_attention(), set(self._model.feedforward))
        _require_products(result, len(self._model.feedforward))
        halves = {
            tensor.name for tensor in result.graph.initializer if tensor.data_type == TensorProto.FLOAT16
        }
        inside = {node.name for node in result.graph.node if len(node.input) > 1 and node.input[1] in halves}
        missing = self._model.attention - inside
        if missing:
            raise BuildError(f"{len(missing)} attention layers did not become FP16: {sorted(missing)[:3]}")
        return result


def _quantize_dynamic(model: onnx.ModelProto, nodes: set[str]) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The quantizer edits the graph that it is given.
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        target = Path(folder) / "model.onnx"
        quantize_dynamic(
            copy,
            target,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            nodes_to_quantize=sorted(nodes),
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
        )
        return onnx.load(str(target))


@contextmanager
def _without_advice() -> Iterator[None]:
    """The quantizer advises pre-processing on the root logger; these graphs need none."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def _require_products(model: onnx.ModelProto, layers: int) -> None:
    counts = Counter(node.op_type for node in model.graph.node)
    products = sum(counts[name] for name in _INTEGER_PRODUCTS)
    if products != layers:
        raise BuildError(
            f"{products} of {layers} linear layers became INT8: the graph is not what was asked for"
        )
