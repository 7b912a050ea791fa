"""The models that the in-process servers run: the same ONNX files for everybody."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anabranch.variants.build import build
from anabranch.variants.minilm import minilm_source
from anabranch.variants.own_models import import_onnx
from anabranch.variants.wordpiece import WordPiece
from bench.dataplane.messages import ENCODER, MLP, Array
from bench.dataplane.places import MODELS

BASELINE = "baseline"
CANDIDATE = "candidate"
ENCODER_VARIANT = "onnx-fp32"
TOKENS = 32
"""Tokens of the encoder's sentence: no server pads or trims, so that all of them compute the same."""

_SENTENCE = (
    "A quiet, patient film that earns its ending; the two leads are marvellous together, the camera never hurries "
    "them, and what could have been one more story of a summer in the country becomes something of its own."
)


def mlp_file() -> Path:
    """The network of 16, 64 and 4 units: it computes for microseconds, so that what is measured is the serving."""
    path = MODELS / "mlp.onnx"
    if not path.is_file():
        MODELS.mkdir(parents=True, exist_ok=True)
        onnx.save(_mlp(), str(path))
    return path


def mlp_models(variants: int = 2) -> Path:
    """A folder with that file as so many variants of one model."""
    root = MODELS / f"mlp-{variants}"
    names = [BASELINE, CANDIDATE, *(f"candidate-{number}" for number in range(2, variants))][:variants]
    for name in names:
        if not (root / MLP / name / "manifest.json").is_file():
            import_onnx(mlp_file(), MLP, name, root)
    return root


def encoder_models() -> Path:
    """A folder with all-MiniLM-L6-v2 and its classifier head, built from the published weights."""
    root = MODELS / "encoder"
    build(minilm_source(), [ENCODER_VARIANT], root)
    return root


def encoder_file() -> Path:
    """The same model's ONNX file."""
    return next((encoder_models() / ENCODER / ENCODER_VARIANT).glob("*.onnx"))


def encoder_tokens() -> Array:
    """The ids of one sentence of exactly TOKENS tokens, shape (1, TOKENS)."""
    folder = encoder_models() / ENCODER / ENCODER_VARIANT
    ids = WordPiece.from_file(folder / "vocab.txt", max_tokens=TOKENS).encode(_SENTENCE)
    assert len(ids) == TOKENS, "the sentence is too short"
    return np.array([ids], dtype=np.int64)


def _mlp() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 64), "b1": (64,), "w2": (64, 4), "b2": (4,)}
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.2, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
