"""Read off a graph in which number format each linear layer multiplies: what was promised can be checked in the file."""

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto

from anabranch.variants.errors import BuildError
from anabranch.variants.formats import NumberFormat
from anabranch.variants.quantize.static import LinearLayer

_INTEGER_PRODUCTS = ("MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm")
_FLOAT_PRODUCTS = ("MatMul", "Gemm")
_FLOATS: Mapping[int, NumberFormat] = {
    TensorProto.FLOAT: NumberFormat.FP32,
    TensorProto.FLOAT16: NumberFormat.FP16,
}
_WEIGHTS = {4: NumberFormat.INT4_WEIGHT, 8: NumberFormat.INT8_WEIGHT}
# A layer's output is at most this many nodes after its product: casts, scales and a bias.
_LONGEST_TAIL = 6


def graph_formats(
    model: onnx.ModelProto, reference: onnx.ModelProto, layers: Sequence[LinearLayer]
) -> dict[str, NumberFormat]:
    """The format of every layer.

    Args:
        model: The built graph; a layer's output has the name that it has in the reference.
        reference: The FP32 graph.
        layers: Layers of the reference.

    Raises:
        BuildError: A layer is not found in the built graph.
    """
    outputs = {node.name: node.output[0] for node in reference.graph.node}
    makers = {name: node for node in model.graph.node for name in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {layer.node: _format(outputs[layer.node], layer.node, makers, types) for layer in layers}


def require_formats(found: Mapping[str, NumberFormat], promised: Mapping[str, NumberFormat]) -> None:
    """Refuse a file whose layers are not in the promised formats.

    Raises:
        BuildError: With the first layer that differs.
    """
    for layer, wanted in sorted(promised.items()):
        if found.get(layer) is not wanted:
            raise BuildError(f"layer {layer} is {found.get(layer)} in the file, must be {wanted}")


def _format(
    tensor: str, layer: str, makers: Mapping[str, onnx.NodeProto], types: Mapping[str, int]
) -> NumberFormat:
    for _ in range(_LONGEST_TAIL):
        node = makers.get(tensor)
        if node is None:
            break
        if node.op_type in _INTEGER_PRODUCTS:
            return NumberFormat.INT8
        if node.op_type == "MatMulNBits":
            bits = next(attribute.i for attribute in node.attribute if attribute.name == "bits")
            return _WEIGHTS[bits]
        if node.op_type in _FLOAT_PRODUCTS:
            return _float_format(node, layer, makers, types)
        tensor = node.input[0]
    raise BuildError(f"layer {layer} is not found in the built graph: its output has no product before it")


def _float_format(
    node: onnx.NodeProto, layer: str, makers: Mapping[str, onnx.NodeProto], types: Mapping[str, int]
) -> NumberFormat:
    weight = node.input[1]
    maker = makers.get(weight)
    if maker is not None and maker.op_type == "DequantizeLinear":
        return NumberFormat.INT8
    found = _FLOATS.get(types.get(weight, TensorProto.UNDEFINED))
    if found is None:
        raise BuildError(f"layer {layer} multiplies by {weight!r}, which is no constant of floats")
    return found
