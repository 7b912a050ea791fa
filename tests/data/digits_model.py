"""A small real model for fast tests: a 64-32-10 network on handwritten digits, trained in numpy, written as ONNX.

Input `pixels` FP32 [-1, 64] in [0, 1]; output `logits` FP32 [-1, 10]. Load this file by its path.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_FOLDER = Path(__file__).parent
_TRAIN = 1_200
_HIDDEN = 32
_EPOCHS = 30
_BATCH = 50
_RATE = 0.004


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """The images (n, 64) in [0, 1] and their classes (n,), dealt into training and test rows."""

    train_pixels: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_pixels: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def load_digits() -> Digits:
    """The vendored images, dealt by a fixed permutation."""
    with gzip.open(_FOLDER / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    table = np.random.default_rng(0).permutation(table)
    pixels, labels = (table[:, :64] / 16).astype(np.float32), table[:, 64]
    return Digits(
        train_pixels=pixels[:_TRAIN],
        train_labels=labels[:_TRAIN],
        test_pixels=pixels[_TRAIN:],
        test_labels=labels[_TRAIN:],
    )


def train_digits(digits: Digits) -> list[NDArray[np.float32]]:
    """Fit both layers with Adam; the same weights on every run."""
    rng = np.random.default_rng(1)
    weights = [
        rng.normal(0, 0.2, (64, _HIDDEN)),
        np.zeros(_HIDDEN),
        rng.normal(0, 0.2, (_HIDDEN, 10)),
        np.zeros(10),
    ]
    means, squares = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    targets = np.eye(10)[digits.train_labels]
    step = 0
    for _ in range(_EPOCHS):
        for rows in np.split(rng.permutation(_TRAIN), _TRAIN // _BATCH):
            pixels = digits.train_pixels[rows].astype(np.float64)
            hidden = np.maximum(pixels @ weights[0] + weights[1], 0)
            scores = np.exp(hidden @ weights[2] + weights[3])
            error = (scores / scores.sum(axis=1, keepdims=True) - targets[rows]) / _BATCH
            back = (error @ weights[2].T) * (hidden > 0)
            gradients = [pixels.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
            step += 1
            for weight, gradient, mean, square in zip(weights, gradients, means, squares, strict=True):
                mean += 0.1 * (gradient - mean)
                square += 0.001 * (gradient**2 - square)
                weight -= _RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return [weight.astype(np.float32) for weight in weights]


def digits_graph(weights: list[NDArray[np.float32]]) -> onnx.ModelProto:
    """The network as ONNX."""
    names = ["hidden.weight", "hidden.bias", "out.weight", "out.bias"]
    nodes = [
        helper.make_node("MatMul", ["pixels", "hidden.weight"], ["hidden.product"], name="hidden"),
        helper.make_node("Add", ["hidden.product", "hidden.bias"], ["hidden.sum"], name="hidden.add"),
        helper.make_node("Relu", ["hidden.sum"], ["active"], name="relu"),
        helper.make_node("MatMul", ["active", "out.weight"], ["out.product"], name="out"),
        helper.make_node("Add", ["out.product", "out.bias"], ["logits"], name="out.add"),
    ]
    body = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weight, name) for name, weight in zip(names, weights, strict=True)],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write_digits_onnx(path: Path) -> Digits:
    """Train the network, write it to `path`, and return the data that it was trained on and can be tested with."""
    digits = load_digits()
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(digits_graph(train_digits(digits)), str(path))
    return digits
