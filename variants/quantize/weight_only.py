"""Write low-bit weights into a graph and leave the activations alone: MatMulNBits and INT8 embedding tables.

MatMulNBits is ONNX Runtime's own operator (CPU and CUDA): a block of weights along the input shares a scale and a zero
point. Embedding tables take a scale a row, with standard operators: only the rows that a request reads are turned back.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from anabranch.variants.errors import RecipeError
from anabranch.variants.quantize.static import LinearLayer, drop_unused, quantize_weight
from anabranch.variants.tensors import Array

_CONTRIB = "com.microsoft"
# Activations stay floats: levels above 1 would let the kernel round them to FP16, bfloat16 or INT8.
_ACCURACY_LEVEL = 1
_MIN_BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWeights:
    """A matrix as `(code - zero) * scale`, a scale and a zero a block.

    Args:
        bits: Bits of a code, 4 or 8.
        codes: Shape (out, blocks, block size); the last block is filled up with codes of zero.
        scales: Shape (out, blocks).
        zeros: The code of the weight 0, shape (out, blocks).
    """

    bits: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]

    def packed(self) -> NDArray[np.uint8]:
        """The codes as bytes, shape (out, blocks, block size * bits / 8); of two codes the first is the lower half."""
        return _packed(self.codes) if self.bits == 4 else self.codes

    def packed_zeros(self) -> NDArray[np.uint8]:
        """The zeros as bytes, shape (out, ceil(blocks * bits / 8))."""
        if self.bits == 8:
            return self.zeros
        return _packed(np.pad(self.zeros, ((0, 0), (0, self.zeros.shape[1] % 2))))

    def dense(self, columns: int) -> NDArray[np.float32]:
        """The weights that the codes stand for, shape (out, columns)."""
        offsets = self.codes.astype(np.float32) - self.zeros[..., None]
        return (offsets * self.scales[..., None]).reshape(len(self.codes), -1)[:, :columns]


def quantize_blocks(weight: Array, *, bits: int, block_size: int) -> BlockWeights:
    """Round every block to the levels between its smallest and its largest weight, zero always among them.

    Args:
        weight: Shape (out, in).
        bits: 4 or 8.
        block_size: Weights that share a scale: a power of two, at least 16.

    Raises:
        RecipeError: The block size is not one that the operator knows.
    """
    if block_size < _MIN_BLOCK or block_size & (block_size - 1):
        raise RecipeError(
            f"block size {block_size} must be a power of two of at least {_MIN_BLOCK}: 32 is usual"
        )
    out, columns = weight.shape
    filled = np.pad(weight.astype(np.float32), ((0, 0), (0, -columns % block_size)))
    blocks = filled.reshape(out, -1, block_size)
    low, high = np.minimum(blocks.min(axis=2), 0), np.maximum(blocks.max(axis=2), 0)
    top = (1 << bits) - 1
    scales = np.where(high > low, (high - low) / top, 1.0).astype(np.float32)
    zeros = np.clip(np.rint(-low / scales), 0, top)
    codes = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, top)
    return BlockWeights(bits=bits, codes=codes.astype(np.uint8), scales=scales, zeros=zeros.astype(np.uint8))


def quantize_weights_only(
    model: onnx.ModelProto, layers: tuple[LinearLayer, ...], *, bits: int, block_size: int
) -> onnx.ModelProto:
    """A copy of the graph whose layers and embedding tables keep low-bit weights.

    Args:
        model: A graph in FP32.
        layers: What to quantize.
        bits: Bits of a linear layer's weight, 4 or 8; embedding tables take 8.
        block_size: Weights along the input that share a scale.

    Raises:
        RecipeError: A Gemm scales its product or its bias.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    wanted = {layer.node: layer for layer in layers}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    gone: set[str] = set()
    for node in graph.node:
        layer = wanted.get(node.name)
        if layer is not None:
            gone.add(layer.weight)
            matrix = numpy_helper.to_array(weights[layer.weight])
            rows = matrix if layer.channel_axis == 0 else matrix.T
            nodes += _block_product(node, layer, rows, bits, block_size, constants)
        elif _reads_table(node, weights):
            gone.add(node.input[0])
            nodes += _table_rows(node, numpy_helper.to_array(weights[node.input[0]]), constants)
        else:
            nodes.append(node)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    if not any(opset.domain == _CONTRIB for opset in result.opset_import):
        result.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    drop_unused(graph, gone)
    return result


def _block_product(
    node: onnx.NodeProto,
    layer: LinearLayer,
    rows: Array,
    bits: int,
    block_size: int,
    constants: dict[str, Array],
) -> list[onnx.NodeProto]:
    factors = {
        attribute.name: attribute.f for attribute in node.attribute if attribute.name in ("alpha", "beta")
    }
    if any(factor != 1.0 for factor in factors.values()):
        raise RecipeError(
            f"Gemm {node.name!r} scales its product by {factors}: use int8-dynamic or int8-static"
        )
    name = f"{layer.weight}/blocks"
    if name not in constants:
        blocks = quantize_blocks(rows, bits=bits, block_size=block_size)
        constants[name] = np.ascontiguousarray(blocks.packed())
        constants[f"{name}/scales"] = blocks.scales
        constants[f"{name}/zeros"] = np.ascontiguousarray(blocks.packed_zeros())
    bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
    out = node.output[0]
    product = helper.make_node(
        "MatMulNBits",
        [layer.source, name, f"{name}/scales", f"{name}/zeros"],
        [f"{out}/product" if bias else out],
        name=node.name,
        domain=_CONTRIB,
        K=rows.shape[1],
        N=rows.shape[0],
        bits=bits,
        block_size=block_size,
        accuracy_level=_ACCURACY_LEVEL,
    )
    return (
        [product, helper.make_node("Add", [f"{out}/product", bias], [out], name=f"{out}/biased")]
        if bias
        else [product]
    )


def _reads_table(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    table = weights.get(node.input[0]) if node.op_type == "Gather" else None
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return table is not None and len(table.dims) == 2 and table.data_type == TensorProto.FLOAT and axis == 0


def _table_rows(node: onnx.NodeProto, table: Array, constants: dict[str, Array]) -> list[onnx.NodeProto]:
    name, indices, out = node.input[0], node.input[1], node.output[0]
    if f"{name}/int8" not in constants:
        values, scales = quantize_weight(table, channel_axis=0)
        constants[f"{name}/int8"] = values
        constants[f"{name}/scales"] = scales[:, None]
    return [
        helper.make_node("Gather", [f"{name}/int8", indices], [f"{out}/int8"], name=node.name),
        helper.make_node("Gather", [f"{name}/scales", indices], [f"{out}/scales"], name=f"{out}/scales"),
        helper.make_node(
            "Cast", [f"{out}/int8"], [f"{out}/float"], name=f"{out}/float", to=TensorProto.FLOAT
        ),
        helper.make_node("Mul", [f"{out}/float", f"{out}/scales"], [out], name=f"{out}/scaled"),
    ]


def _packed(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    low, high = codes[..., 0::2], codes[..., 1::2]
    joined: NDArray[np.uint8] = np.bitwise_or(low, high << 4, dtype=np.uint8)
    return joined
