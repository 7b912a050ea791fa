"""Write fixed-range INT8 into a graph: a QuantizeLinear and DequantizeLinear pair on every linear layer's input.

Only the edge into the linear layer is rewired. ONNX Runtime's own quantizer rewires every consumer of the tensor, the
residual addition too, which costs an encoder most of its accuracy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from anabranch.variants.errors import BuildError
from anabranch.variants.quantize.calibrate import Range
from anabranch.variants.tensors import Array

_LINEAR = ("MatMul", "Gemm")
# Levels of an unsigned byte (activations), and the largest magnitude of a symmetric signed one (weights).
_ACTIVATION_LEVELS = 255
_WEIGHT_MAX = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLayer:
    """A MatMul or Gemm on constant weights.

    Args:
        node: The node's name.
        source: The tensor that goes in.
        weight: The constant's name.
        channel_axis: The weight's axis that runs over output channels.
    """

    node: str
    source: str
    weight: str
    channel_axis: int


def linear_layers(model: onnx.ModelProto, keep: frozenset[str] = frozenset()) -> tuple[LinearLayer, ...]:
    """The layers that can be quantized, in graph order, without those named in `keep`."""
    constants = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    found: list[LinearLayer] = []
    for node in model.graph.node:
        if node.op_type not in _LINEAR or node.name in keep or node.input[1] not in constants:
            continue
        flags = {attribute.name: attribute.i for attribute in node.attribute}
        if flags.get("transA"):
            continue
        axis = 0 if flags.get("transB") else 1
        found.append(
            LinearLayer(node=node.name, source=node.input[0], weight=node.input[1], channel_axis=axis)
        )
    return tuple(found)


def quantize_static(
    model: onnx.ModelProto, layers: tuple[LinearLayer, ...], ranges: Mapping[str, Range]
) -> onnx.ModelProto:
    """A copy of the graph with the layers in INT8.

    Args:
        model: A graph in FP32.
        layers: What to quantize.
        ranges: The range of every layer's input tensor.

    Raises:
        BuildError: There is no layer to quantize.
    """
    if not layers:
        raise BuildError("the graph has no MatMul or Gemm on constant 2-D weights: nothing can be quantized")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    wanted = {layer.node: layer for layer in layers}
    nodes: list[onnx.NodeProto] = []
    ready: set[str] = set()
    for node in graph.node:
        layer = wanted.get(node.name)
        if layer is not None:
            if layer.source not in ready:
                ready.add(layer.source)
                nodes += _activation_pair(graph, layer.source, ranges[layer.source])
            if layer.weight not in ready:
                ready.add(layer.weight)
                nodes.append(_weight_node(graph, layer, numpy_helper.to_array(weights[layer.weight])))
            node.input[0], node.input[1] = f"{layer.source}/dequantized", f"{layer.weight}/dequantized"
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    drop_unused(graph, {layer.weight for layer in layers})
    return result


def activation_scale(span: Range) -> tuple[np.float32, np.uint8]:
    """Scale and zero point that spread an unsigned byte over a range that includes zero."""
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    scale = np.float32((high - low) / _ACTIVATION_LEVELS) or np.float32(1.0)
    return scale, np.uint8(np.clip(round(-low / float(scale)), 0, _ACTIVATION_LEVELS))


def quantize_weight(weight: Array, channel_axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric INT8 with one scale a channel.

    Args:
        weight: Shape (in, out), or (out, in) with `channel_axis` 0.
        channel_axis: The axis of the output channels.
    """
    largest = np.abs(weight).max(axis=1 - channel_axis, keepdims=True)
    scale = np.where(largest > 0, largest / _WEIGHT_MAX, 1.0).astype(np.float32)
    rounded = np.clip(np.rint(weight / scale), -_WEIGHT_MAX, _WEIGHT_MAX)
    return rounded.astype(np.int8), scale.ravel()


def _activation_pair(graph: onnx.GraphProto, tensor: str, span: Range) -> list[onnx.NodeProto]:
    scale, zero = activation_scale(span)
    graph.initializer.append(numpy_helper.from_array(np.array(scale), f"{tensor}/scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(zero), f"{tensor}/zero"))
    settings = [f"{tensor}/scale", f"{tensor}/zero"]
    byte, back = f"{tensor}/quantized", f"{tensor}/dequantized"
    return [
        helper.make_node("QuantizeLinear", [tensor, *settings], [byte], name=byte),
        helper.make_node("DequantizeLinear", [byte, *settings], [back], name=back),
    ]


def _weight_node(graph: onnx.GraphProto, layer: LinearLayer, weight: Array) -> onnx.NodeProto:
    values, scales = quantize_weight(weight, layer.channel_axis)
    name, back = layer.weight, f"{layer.weight}/dequantized"
    graph.initializer.append(numpy_helper.from_array(values, f"{name}/int8"))
    graph.initializer.append(numpy_helper.from_array(scales, f"{name}/scales"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(len(scales), np.int8), f"{name}/zeros"))
    inputs = [f"{name}/int8", f"{name}/scales", f"{name}/zeros"]
    return helper.make_node("DequantizeLinear", inputs, [back], name=back, axis=layer.channel_axis)


def drop_unused(graph: onnx.GraphProto, weights: set[str]) -> None:
    """Remove the full-precision weights that no node reads any more."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return  # a branch or loop body may read them
    kept = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name not in weights]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)
