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
from anabranch.variants.formats import NumberFormat
from anabranch.variants.graph_formats import graph_formats
from anabranch.variants.models import PreparedModel, Progress
from anabranch.variants.quantize.calibrate import Observed, Range, choose_ranges, observe
from anabranch.variants.quantize.rows import quantize_rows
from anabranch.variants.quantize.static import LinearLayer, linear_layers, quantize_static
from anabranch.variants.quantize.weight_only import quantize_weights_only
from anabranch.variants.recipes import (
    Bf16,
    Fp8,
    Fp16,
    Fp32,
    Imported,
    Int4WeightOnly,
    Int8Dynamic,
    Int8Qat,
    Int8Static,
    Int8WeightOnly,
    Mixed,
    MixedWithin,
    Ranges,
    Recipe,
    Tf32,
)
from anabranch.variants.sensitivity.search import layers_to_keep

_INTEGER_PRODUCTS = ("MatMulInteger", "DynamicQuantizeMatMul")


class OnnxBuilder:
    """Builds recipes of one model; what calibration saw is kept for the next static recipe.

    Args:
        model: The model in FP32, and its requests.
        tell: Takes a line before each part of a long build.
        threads: Threads that a search may use.
    """

    def __init__(self, model: PreparedModel, tell: Progress | None = None, *, threads: int = 1) -> None:
        self._model = model
        self._threads = threads
        self._tell = tell or _silent
        self._observed: dict[int, dict[str, Observed]] = {}

    def build(self, recipe: Recipe) -> onnx.ModelProto:
        """The recipe's graph.

        Raises:
            RecipeError: The model cannot take this recipe.
            BuildError: The result is not what the recipe promises.
        """
        match recipe:
            case Fp32() | Tf32() | Imported():
                return self._model.graph
            case Fp16():
                return self._half()
            case Int8Dynamic():
                return self._dynamic(recipe.ranges)
            case Int8Static():
                return self._static(recipe)
            case Int8Qat():
                return self._trained(recipe)
            case Int8WeightOnly():
                return self._weights_only(bits=8, block_size=recipe.block_size)
            case Int4WeightOnly():
                return self._weights_only(bits=4, block_size=recipe.block_size)
            case Mixed():
                return self._mixed()
            case MixedWithin():
                return self._mixed_within(recipe)
            case Bf16() | Fp8():
                raise RecipeError(f"ONNX Runtime has no {recipe.name} kernels for these operators: use fp16")
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
        layers = self._layers()
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
        layers = self._layers()
        return quantize_static(self._model.graph, layers, self._ranges(layers, recipe))

    def _trained(self, recipe: Int8Qat) -> onnx.ModelProto:
        # Torch is an optional extra and takes seconds to import.
        from anabranch.variants.torch_engine.training import train_for_int8

        layers = self._layers()
        ranges = self._ranges(layers, recipe)
        by_layer = {layer.node: ranges[layer.source] for layer in layers}
        return quantize_static(train_for_int8(self._model, recipe, by_layer, self._tell), layers, ranges)

    def _weights_only(self, *, bits: int, block_size: int) -> onnx.ModelProto:
        layers = self._layers()
        result = quantize_weights_only(self._model.graph, layers, bits=bits, block_size=block_size)
        products = sum(node.op_type == "MatMulNBits" for node in result.graph.node)
        if products != len(layers):
            raise BuildError(f"{products} of {len(layers)} linear layers became INT{bits}")
        return result

    def _layers(self) -> tuple[LinearLayer, ...]:
        layers = linear_layers(self._model.graph, self._model.keep)
        if not layers:
            raise RecipeError(
                "the graph has no MatMul or Gemm on constant 2-D weights: nothing can be quantized"
            )
        return layers

    def _ranges(self, layers: tuple[LinearLayer, ...], recipe: Int8Static | Int8Qat) -> dict[str, Range]:
        if not self._model.calibration:
            raise RecipeError(
                f"{recipe.name} needs calibration requests, the model has 0: give real inputs (anabranch build --samples)"
            )
        seen = self._observed.get(recipe.samples)
        if seen is None:
            sources = sorted({layer.source for layer in layers})
            seen = observe(self._model.graph, sources, self._model.calibration[: recipe.samples])
            self._observed[recipe.samples] = seen
        return choose_ranges(seen, recipe.calibration)

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

    def _mixed_within(self, recipe: MixedWithin) -> onnx.ModelProto:
        layers = self._layers()
        everything = _quantize_dynamic(self._model.graph, {layer.node for layer in layers})
        kept = layers_to_keep(
            self._model, everything, max_drop=recipe.max_accuracy_drop, threads=self._threads, tell=self._tell
        )
        chosen = {layer.node for layer in layers} - set(kept)
        self._tell(f"{len(kept)} of {len(layers)} layers stay in FP32")
        if not chosen:
            raise RecipeError(
                f"no layer can be INT8 within an accuracy drop of {recipe.max_accuracy_drop:.2%}: allow more, or use fp16"
            )
        result = _quantize_dynamic(self._model.graph, chosen)
        _require_products(result, len(chosen))
        return result

    def formats(self, graph: onnx.ModelProto) -> dict[str, NumberFormat]:
        """The number format of every linear layer in a built graph; empty where there is none."""
        layers = linear_layers(self._model.graph, self._model.keep)
        return graph_formats(graph, self._model.graph, layers)


def _silent(_: str) -> None:
    return


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
            # The quantizer makes a MatMul of every plain Gemm first, and of this name.
            nodes_to_quantize=sorted(nodes | {f"{node}_MatMul" for node in nodes}),
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
