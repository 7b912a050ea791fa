"""Turn a decoder into an ONNX graph with a KV cache, without torch.

`input_ids` go in with the cache of what came before; `logits` of the tokens from `first_logit` on come out. A cache is
handed in and out as one buffer a layer and side, which ONNX Runtime fills in place. The operators for attention and for
weights in blocks are ONNX Runtime's own.

Source:
    Touvron et al. 2023, Llama; Ainslie et al. 2023, GQA; Su et al. 2021, RoFormer (rotary positions).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from anabranch.variants.errors import BuildError
from anabranch.variants.llm.blocks import BLOCK, Blocks, Matrix, dense, pack, quantize, stack_rows
from anabranch.variants.llm.decoder import (
    EMBEDDING,
    FINAL_NORM,
    OUTPUT,
    Decoder,
    DecoderShape,
    rotary_tables,
)
from anabranch.variants.llm.kv_cache import past_name, present_name
from anabranch.variants.tensors import Array

_OPSET = 21
_IR_VERSION = 10
_MICROSOFT = "com.microsoft"
# Activations are rounded to bytes block by block inside the product: what makes it faster than FP32.
_BYTE_ACTIVATIONS = 4


class Arithmetic(StrEnum):
    """The number format of activations, and of weights that are not in blocks."""

    FP32 = "fp32"
    FP16 = "fp16"


class CacheForm(StrEnum):
    """What the cache looks like to the graph.

    `whole` keeps every token in order. With `places`, the caller says at which position each new token is and which
    rows it may look at, so that rows can be dropped and reused.
    """

    WHOLE = "whole"
    PLACES = "places"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheScales:
    """Scales of a cache in low bits, one a channel.

    Args:
        keys: One array a layer, shape (kv_heads * head_size,).
        values: The same.
    """

    keys: tuple[NDArray[np.float32], ...]
    values: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """What a recipe asks of the graph.

    Args:
        arithmetic: Number format of activations.
        weight_bits: 8 or 4 puts every matrix into blocks; None keeps them in `arithmetic`.
        cache: What the cache looks like.
        cache_bits: 8 or 4 with `cache_scales`; None keeps the cache in `arithmetic`.
        cache_scales: From calibration.
    """

    arithmetic: Arithmetic = Arithmetic.FP32
    weight_bits: int | None = None
    cache: CacheForm = CacheForm.WHOLE
    cache_bits: int | None = None
    cache_scales: CacheScales | None = None


def decoder_graph(decoder: Decoder, plan: GraphPlan) -> onnx.ModelProto:
    """Build the graph.

    Args:
        decoder: Sizes and weights.
        plan: Number formats and cache.

    Raises:
        BuildError: A tensor is missing, or the plan contradicts itself.
    """
    if (plan.cache_bits is None) != (plan.cache_scales is None):
        raise BuildError("a cache in low bits needs scales, and scales need its bits: give both or neither")
    try:
        return _Builder(decoder, plan).model()
    except KeyError as error:
        raise BuildError(f"the decoder lacks the tensor {error}") from None


@dataclass(slots=True)
class _Builder:
    decoder: Decoder
    plan: GraphPlan
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    @property
    def shape(self) -> DecoderShape:
        return self.decoder.shape

    @property
    def number(self) -> "np.dtype[Any]":
        return np.dtype(np.float32 if self.plan.arithmetic is Arithmetic.FP32 else np.float16)

    def model(self) -> onnx.ModelProto:
        self.constant("rotary.cos", rotary_tables(self.shape)[0])
        self.constant("rotary.sin", rotary_tables(self.shape)[1])
        residual = self.embed()
        normed = self.add(
            "SimplifiedLayerNormalization",
            [
                residual,
                self.constant("layer.0.attention.norm", self.decoder.vector("blk.0.attn_norm.weight")),
            ],
            "layer.0.attention.normed",
            axis=-1,
            epsilon=self.shape.norm_epsilon,
            stash_type=1,
        )
        for layer in range(self.shape.layers):
            residual, normed = self.layer(layer, residual, normed)
        self.logits(normed)
        body = helper.make_graph(
            self.nodes, "decoder", self.inputs(), self.outputs(), list(self.constants.values())
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(
            body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="anabranch"
        )

    def constant(self, name: str, value: Array) -> str:
        if name not in self.constants:
            kept = value.astype(self.number) if value.dtype == np.float32 else value
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(kept), name)
        return name

    def add(self, operator: str, inputs: list[str], name: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def inputs(self) -> list[onnx.ValueInfoProto]:
        info = helper.make_tensor_value_info
        found = [
            info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
            info("first_logit", TensorProto.INT64, [1]),
            info("last_row", TensorProto.INT32, ["batch"]),
            info("rows", TensorProto.INT32, []),
        ]
        if self.plan.cache is CacheForm.PLACES:
            found.append(info("position_ids", TensorProto.INT64, ["batch", "sequence"]))
            found.append(info("visible", self.element, ["batch", 1, "sequence", "seen"]))
        return found + [self.cache_buffer(past_name(layer, side)) for layer, side in self.sides()]

    def outputs(self) -> list[onnx.ValueInfoProto]:
        shape: list[int | str | None] = ["batch", "wanted", self.shape.vocabulary]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
        return [logits, *(self.cache_buffer(present_name(layer, side)) for layer, side in self.sides())]

    def sides(self) -> list[tuple[int, str]]:
        return [(layer, side) for layer in range(self.shape.layers) for side in ("key", "value")]

    @property
    def element(self) -> int:
        return TensorProto.FLOAT if self.plan.arithmetic is Arithmetic.FP32 else TensorProto.FLOAT16

    def cache_buffer(self, name: str) -> onnx.ValueInfoProto:
        element = {None: self.element, 8: TensorProto.INT8, 4: TensorProto.UINT8}[self.plan.cache_bits]
        size = self.shape.head_size // (2 if self.plan.cache_bits == 4 else 1)
        return helper.make_tensor_value_info(name, element, ["batch", self.shape.kv_heads, "capacity", size])

    def embed(self) -> str:
        matrix = self.decoder.weights[EMBEDDING]
        if self.plan.weight_bits is None:
            return self.add(
                "Gather", [self.constant("embedding.weight", dense(matrix)), "input_ids"], "embedding"
            )
        # A table in 4 bits costs more than it saves: like the files that people publish, keep it in 8.
        blocks = self.byte_blocks(matrix)
        codes = self.constant("embedding.codes", blocks.packed())
        rows = self.constant("embedding.rows", np.array([blocks.shape[0], -1], np.int64))
        # The same bytes serve the look-up and the logits; only the shape differs.
        flat = self.add("Reshape", [codes, rows], "embedding.flat")
        scales = self.constant("embedding.scales", blocks.scales)
        return self.add(
            "GatherBlockQuantized",
            [flat, "input_ids", scales, *self.zero_points("embedding", blocks)],
            "embedding",
            _MICROSOFT,
            bits=8,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )

    def byte_blocks(self, matrix: Matrix) -> Blocks:
        if isinstance(matrix, Blocks) and matrix.bits == 8:
            return matrix
        return quantize(dense(matrix), 8)

    def zero_points(self, name: str, blocks: Blocks) -> list[str]:
        """The zero points as an input of an operator; none where they are what the operator takes by default."""
        points = blocks.zero_points()
        if (points == 1 << (blocks.bits - 1)).all():
            return []
        return [self.constant(f"{name}.points", pack(points, blocks.bits))]

    def layer(self, layer: int, residual: str, normed: str) -> tuple[str, str]:
        name = f"layer.{layer}"
        mixed = self.attention(layer, normed)
        norm = self.decoder.vector(f"blk.{layer}.ffn_norm.weight")
        residual, normed = self.add_and_norm(residual, mixed, norm, f"{name}.feedforward")
        fed = self.feedforward(layer, normed)
        is_last = layer == self.shape.layers - 1
        key = FINAL_NORM if is_last else f"blk.{layer + 1}.attn_norm.weight"
        following = "final" if is_last else f"layer.{layer + 1}.attention"
        return self.add_and_norm(residual, fed, self.decoder.vector(key), following)

    def add_and_norm(
        self, residual: str, change: str, weight: NDArray[np.float32], name: str
    ) -> tuple[str, str]:
        scale = self.constant(f"{name}.norm", weight)
        total, normed = f"{name}.residual", f"{name}.normed"
        self.nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [change, residual, scale],
                [normed, "", "", total],
                name=normed,
                domain=_MICROSOFT,
                epsilon=self.shape.norm_epsilon,
            )
        )
        return total, normed

    def attention(self, layer: int, normed: str) -> str:
        name = f"layer.{layer}.attention"
        parts = [self.decoder.layer(layer, part) for part in ("attn_q", "attn_k", "attn_v")]
        packed = self.linear(normed, stack_rows(parts), f"{name}.qkv")
        places = ["position_ids", "visible"] if self.plan.cache is CacheForm.PLACES else ["", ""]
        past = [past_name(layer, side) for side in ("key", "value")]
        inputs = [packed, "", "", *past, "last_row", "rows", "rotary.cos", "rotary.sin", *places]
        attributes: dict[str, Any] = {}
        scales = self.plan.cache_scales
        if scales is not None:
            for side, arrays in (("key", scales.keys), ("value", scales.values)):
                shaped = arrays[layer].reshape(1, self.shape.kv_heads, 1, self.shape.head_size)
                inputs += [""] if side == "key" else []
                inputs.append(self.full_constant(f"{name}.{side}.scale", shaped))
            attributes = {
                "kv_cache_bit_width": self.plan.cache_bits,
                "k_quant_type": "PER_CHANNEL",
                "v_quant_type": "PER_CHANNEL",
            }
        while inputs[-1] == "":
            inputs.pop()
        mixed = f"{name}.mixed"
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                inputs,
                [mixed, *(present_name(layer, side) for side in ("key", "value"))],
                name=mixed,
                domain=_MICROSOFT,
                num_heads=self.shape.heads,
                kv_num_heads=self.shape.kv_heads,
                do_rotary=1,
                rotary_interleaved=1,
                **attributes,
            )
        )
        return self.linear(mixed, self.decoder.layer(layer, "attn_output"), f"{name}.output")

    def full_constant(self, name: str, value: NDArray[np.float32]) -> str:
        """A constant that stays FP32 whatever the arithmetic."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def feedforward(self, layer: int, normed: str) -> str:
        name = f"layer.{layer}.feedforward"
        parts = [self.decoder.layer(layer, part) for part in ("ffn_gate", "ffn_up")]
        both = self.linear(normed, stack_rows(parts), f"{name}.gate_up")
        gate, up = f"{name}.gate", f"{name}.up"
        self.nodes.append(
            helper.make_node("Split", [both], [gate, up], name=f"{name}.split", axis=-1, num_outputs=2)
        )
        # With alpha 1 this is x * sigmoid(x).
        active = self.add("QuickGelu", [gate], f"{name}.active", _MICROSOFT, alpha=1.0)
        inner = self.add("Mul", [active, up], f"{name}.inner")
        return self.linear(inner, self.decoder.layer(layer, "ffn_down"), f"{name}.down")

    def linear(self, source: str, matrix: Matrix, name: str) -> str:
        bits = self.plan.weight_bits
        if bits is None:
            return self.add("MatMul", [source, self.constant(f"{name}.weight", dense(matrix).T)], name)
        kept = isinstance(matrix, Blocks) and matrix.bits == bits
        blocks = matrix if isinstance(matrix, Blocks) and kept else quantize(dense(matrix), bits)
        product = self.block_product(source, blocks, name, self.constant(f"{name}.codes", blocks.packed()))
        remainders = blocks.remainders()
        if bits == 8 or not remainders.any():
            return product
        # The zero point of 4 bits is a whole code, a block's minimum is not: what is between them is the same for all
        # of a block's weights, so it costs one sum a block.
        columns = blocks.shape[1]
        cut = self.constant(f"blocks.{columns}", np.array([0, 0, columns // BLOCK, BLOCK], np.int64))
        sums = f"{source}.sums"
        split = self.add("Reshape", [source, cut], f"{source}.blocks")
        self.add("ReduceSum", [split, self.constant("last_axis", np.array([3], np.int64))], sums, keepdims=0)
        rest = self.add("MatMul", [sums, self.constant(f"{name}.remainders", remainders.T)], f"{name}.rest")
        return self.add("Add", [product, rest], f"{name}.exact")

    def block_product(self, source: str, blocks: Blocks, name: str, codes: str) -> str:
        rows, columns = blocks.shape
        scales = self.constant(f"{codes.removesuffix('.codes')}.scales", blocks.scales)
        return self.add(
            "MatMulNBits",
            [source, codes, scales, *self.zero_points(codes.removesuffix(".codes"), blocks)],
            name,
            _MICROSOFT,
            K=columns,
            N=rows,
            bits=blocks.bits,
            block_size=BLOCK,
            accuracy_level=_BYTE_ACTIVATIONS,
        )

    def logits(self, normed: str) -> None:
        ends = self.constant("end", np.array([np.iinfo(np.int64).max], np.int64))
        axis = self.constant("sequence_axis", np.array([1], np.int64))
        last = self.add("Slice", [normed, "first_logit", ends, axis], "final.wanted")
        tied = self.decoder.is_tied
        name = "embedding" if tied else "output"
        matrix = self.decoder.weights[EMBEDDING if tied else OUTPUT]
        half = self.plan.arithmetic is Arithmetic.FP16
        made = "logits.half" if half else "logits"
        if self.plan.weight_bits is None:
            weight = self.constant(f"{name}.weight", dense(matrix))
            self.add("FusedMatMul", [last, weight], made, _MICROSOFT, transB=1)
        else:
            blocks = self.byte_blocks(matrix)
            self.block_product(last, blocks, made, self.constant(f"{name}.codes", blocks.packed()))
        if half:
            self.add("Cast", [made], "logits", to=TensorProto.FLOAT)
