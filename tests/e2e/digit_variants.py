"""Four variants of a small network that reads handwritten digits, as ONNX graphs.

`plain` is the network; `wide` gives the same answers after much needless work; `corrupt` has weights that give other
answers; `raising` fails on every real request. Load this file by its path.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_WIDTH = 1024
_LAYERS = 8


def graphs(digits_module: ModuleType, digits: Any) -> dict[str, onnx.ModelProto]:
    """The variants by name."""
    weights = digits_module.train_digits(digits)
    corrupt = [*weights[:2], np.roll(weights[2], 3, axis=1), np.roll(weights[3], 3)]
    return {
        "plain": digits_module.digits_graph(weights),
        "wide": _wide(digits_module, weights),
        "corrupt": digits_module.digits_graph(corrupt),
        "raising": _raising(digits_module, weights),
    }


def _model(nodes: list[onnx.NodeProto], weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _network(digits: ModuleType, weights: list[NDArray[np.float32]]) -> tuple[list[Any], dict[str, Any]]:
    """The digits network's nodes and weights, its output renamed to `answer`."""
    graph = digits.digits_graph(weights).graph
    nodes = list(graph.node)
    nodes[-1].output[0] = "answer"
    return nodes, {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _wide(digits: ModuleType, weights: list[NDArray[np.float32]]) -> onnx.ModelProto:
    """The same answers after a product that counts for nothing."""
    nodes, arrays = _network(digits, weights)
    rng = np.random.default_rng(2)
    arrays |= {
        "spread": rng.normal(0, 0.1, (64, _WIDTH)).astype(np.float32),
        "idle": rng.normal(0, 0.03, (_WIDTH, _WIDTH)).astype(np.float32),
        "gather": rng.normal(0, 0.03, (_WIDTH, 10)).astype(np.float32),
        "nothing": np.zeros(1, np.float32),
    }
    nodes.append(helper.make_node("MatMul", ["pixels", "spread"], ["h0"]))
    for layer in range(_LAYERS):
        nodes.append(helper.make_node("MatMul", [f"h{layer}", "idle"], [f"p{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"p{layer}"], [f"h{layer + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"h{_LAYERS}", "gather"], ["noise"]))
    nodes.append(helper.make_node("Mul", ["noise", "nothing"], ["silence"]))
    nodes.append(helper.make_node("Add", ["answer", "silence"], ["logits"]))
    return _model(nodes, arrays)


def _raising(digits: ModuleType, weights: list[NDArray[np.float32]]) -> onnx.ModelProto:
    """Answers zeros; anything else makes it read beyond the end of a table."""
    nodes, arrays = _network(digits, weights)
    arrays |= {"table": np.zeros(1, np.float32), "far": np.array(1_000, np.float32)}
    nodes += [
        helper.make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "far"], ["place"]),
        helper.make_node("Cast", ["place"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["found"]),
        helper.make_node("Add", ["answer", "found"], ["logits"]),
    ]
    return _model(nodes, arrays)
