"""Turn a BERT encoder's weights into an ONNX graph with stable names, without torch.

`input_ids` and `attention_mask` go in; the masked mean of the last layer, scaled to length 1, is `embedding`; a linear
head, where there is one, makes `logits` of it. Only standard operators are used, so the file runs elsewhere too; ONNX
Runtime fuses them when it loads the graph. Every linear layer is a MatMul on a constant and an Add: quantizers find
those by their names (`layer.0.attention.query`, `layer.0.feedforward.up`, ..., `head`).

Source:
    Devlin et al. 2018, BERT; Reimers and Gurevych 2019, Sentence-BERT (mean pooling).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anabranch.variants.errors import BuildError
from anabranch.variants.tensors import Array

# Gelu and LayerNormalization are operators since opset 20 and 17.
_OPSET = 20
_IR_VERSION = 10
# Added to the scores of padding; exp of it is 0, and FP16 can hold it.
_MASKED = -10_000.0


class AttentionPrecision(StrEnum):
    """The number format of the attention blocks."""

    FP32 = "fp32"
    FP16 = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """A BERT encoder's sizes."""

    layers: int
    heads: int
    width: int
    norm_epsilon: float = 1e-12


@dataclass(slots=True)
class _Graph:
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name


def attention_nodes(layers: int) -> frozenset[str]:
    """Names of the linear layers inside the attention blocks."""
    parts = ("query", "key", "value", "output")
    return frozenset(f"layer.{layer}.attention.{part}" for layer in range(layers) for part in parts)


def feedforward_nodes(layers: int) -> frozenset[str]:
    """Names of the linear layers inside the feed-forward blocks."""
    return frozenset(
        f"layer.{layer}.feedforward.{part}" for layer in range(layers) for part in ("up", "down")
    )


def encoder_graph(
    weights: Mapping[str, Array],
    shape: EncoderShape,
    *,
    head: tuple[Array, Array] | None = None,
    attention: AttentionPrecision = AttentionPrecision.FP32,
) -> onnx.ModelProto:
    """Build the graph.

    Args:
        weights: Tensors by their names in a Hugging Face `BertModel` checkpoint.
        shape: The encoder's sizes.
        head: Weights (width, classes) and biases (classes,) of the classifier; without one the output is
            `embedding` itself.
        attention: FP16 casts the inputs and weights of the attention blocks and casts their result back.

    Raises:
        BuildError: A tensor is missing, or the graph is not well-formed.
    """
    graph = _Graph()
    try:
        hidden, scores_mask = _embed(graph, weights, shape)
        half = attention is AttentionPrecision.FP16
        if half:
            scores_mask = graph.add("Cast", [scores_mask], "scores_mask_fp16", to=TensorProto.FLOAT16)
        for layer in range(shape.layers):
            hidden = _layer(graph, weights, shape, layer, hidden, scores_mask, half=half)
    except KeyError as error:
        raise BuildError(f"the checkpoint lacks the tensor {error}: it is not a BERT encoder") from None
    _pool(graph, hidden)
    name, width = "embedding", shape.width
    if head is not None:
        matrix, bias = head
        product = graph.add("MatMul", ["embedding", graph.constant("head.weight", matrix)], "head")
        name, width = "logits", int(bias.shape[0])
        graph.add("Add", [product, graph.constant("head.bias", bias)], "logits")
    inputs = [
        helper.make_tensor_value_info(tensor, TensorProto.INT64, ["batch", "sequence"])
        for tensor in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])]
    body = helper.make_graph(graph.nodes, "encoder", inputs, outputs, graph.initializers)
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="anabranch")
    onnx.checker.check_model(model)
    return model


def _embed(graph: _Graph, weights: Mapping[str, Array], shape: EncoderShape) -> tuple[str, str]:
    words = graph.constant("embeddings.words", weights["embeddings.word_embeddings.weight"])
    # Every text is of type 0: its row is added to the positions once, here.
    places = (
        weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    positions = graph.constant("embeddings.positions", places)
    word = graph.add("Gather", [words, "input_ids"], "embeddings.word")
    size = graph.add("Shape", ["input_ids"], "sequence_length", start=1, end=2)
    starts = [graph.constant("zero", np.array([0], np.int64)), size]
    place = graph.add("Slice", [positions, *starts], "embeddings.position")
    total = graph.add("Add", [word, place], "embeddings.sum")
    hidden = _norm(graph, weights, shape, total, "embeddings", "embeddings.LayerNorm")
    mask = graph.add("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    axes = graph.constant("mask_axes", np.array([1, 2], np.int64))
    wide = graph.add("Unsqueeze", [mask, axes], "mask_wide")
    padding = graph.add("Sub", [graph.constant("one", np.array(1, np.float32)), wide], "padding")
    scores = graph.add(
        "Mul", [padding, graph.constant("masked", np.array(_MASKED, np.float32))], "scores_mask"
    )
    return hidden, scores


def _norm(
    graph: _Graph, weights: Mapping[str, Array], shape: EncoderShape, source: str, name: str, key: str
) -> str:
    scale = graph.constant(f"{name}.norm.scale", weights[f"{key}.weight"])
    bias = graph.constant(f"{name}.norm.bias", weights[f"{key}.bias"])
    return graph.add(
        "LayerNormalization", [source, scale, bias], f"{name}.norm", axis=-1, epsilon=shape.norm_epsilon
    )


def _linear(
    graph: _Graph,
    weights: Mapping[str, Array],
    source: str,
    name: str,
    key: str,
    *,
    half: bool,
    scale: float = 1.0,
) -> str:
    dtype = np.float16 if half else np.float32
    matrix = graph.constant(f"{name}.weight", (weights[f"{key}.weight"].T * np.float32(scale)).astype(dtype))
    bias = graph.constant(f"{name}.bias", (weights[f"{key}.bias"] * np.float32(scale)).astype(dtype))
    return graph.add("Add", [graph.add("MatMul", [source, matrix], name), bias], f"{name}.add")


def _layer(
    graph: _Graph,
    weights: Mapping[str, Array],
    shape: EncoderShape,
    layer: int,
    hidden: str,
    scores_mask: str,
    *,
    half: bool,
) -> str:
    name, key = f"layer.{layer}", f"encoder.layer.{layer}"
    mixed = _attention(graph, weights, shape, name, f"{key}.attention", hidden, scores_mask, half=half)
    residual = graph.add("Add", [hidden, mixed], f"{name}.attention.residual")
    hidden = _norm(graph, weights, shape, residual, f"{name}.attention", f"{key}.attention.output.LayerNorm")
    up = _linear(graph, weights, hidden, f"{name}.feedforward.up", f"{key}.intermediate.dense", half=False)
    active = graph.add("Gelu", [up], f"{name}.feedforward.gelu")
    down = _linear(graph, weights, active, f"{name}.feedforward.down", f"{key}.output.dense", half=False)
    residual = graph.add("Add", [hidden, down], f"{name}.feedforward.residual")
    return _norm(graph, weights, shape, residual, f"{name}.feedforward", f"{key}.output.LayerNorm")


def _attention(
    graph: _Graph,
    weights: Mapping[str, Array],
    shape: EncoderShape,
    name: str,
    key: str,
    hidden: str,
    scores_mask: str,
    *,
    half: bool,
) -> str:
    name = f"{name}.attention"
    size = shape.width // shape.heads
    split = graph.constant(f"{name}.split", np.array([0, 0, shape.heads, size], np.int64))
    source = graph.add("Cast", [hidden], f"{name}.half", to=TensorProto.FLOAT16) if half else hidden
    parts: list[str] = []
    # The 1/sqrt(size) of the scores is folded into the query's weights.
    for part, order, scale in (
        ("query", [0, 2, 1, 3], size**-0.5),
        ("key", [0, 2, 3, 1], 1.0),
        ("value", [0, 2, 1, 3], 1.0),
    ):
        flat = _linear(graph, weights, source, f"{name}.{part}", f"{key}.self.{part}", half=half, scale=scale)
        cut = graph.add("Reshape", [flat, split], f"{name}.{part}.split")
        parts.append(graph.add("Transpose", [cut], f"{name}.{part}.heads", perm=order))
    scores = graph.add("MatMul", parts[:2], f"{name}.scores")
    masked = graph.add("Add", [scores, scores_mask], f"{name}.scores.masked")
    share = graph.add("Softmax", [masked], f"{name}.softmax", axis=-1)
    mixed = graph.add("MatMul", [share, parts[2]], f"{name}.mixed")
    back = graph.add("Transpose", [mixed], f"{name}.joined", perm=[0, 2, 1, 3])
    join = graph.constant(f"{name}.join", np.array([0, 0, shape.width], np.int64))
    flat = graph.add("Reshape", [back, join], f"{name}.flat")
    out = _linear(graph, weights, flat, f"{name}.output", f"{key}.output.dense", half=half)
    return graph.add("Cast", [out], f"{name}.full", to=TensorProto.FLOAT) if half else out


def _pool(graph: _Graph, hidden: str) -> None:
    last = graph.constant("last_axis", np.array([-1], np.int64))
    first = graph.constant("sequence_axis", np.array([1], np.int64))
    column = graph.add("Unsqueeze", ["mask", last], "mask_column")
    kept = graph.add("Mul", [hidden, column], "pool.kept")
    total = graph.add("ReduceSum", [kept, first], "pool.sum", keepdims=0)
    count = graph.add("ReduceSum", [column, first], "pool.count", keepdims=0)
    # A row of padding alone has no mean: divide by at least one.
    floor = graph.add("Max", [count, "one"], "pool.count_floor")
    mean = graph.add("Div", [total, floor], "pool.mean")
    graph.add("LpNormalization", [mean], "embedding", axis=-1, p=2)
