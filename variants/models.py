"""What a builder works on: a model's FP32 graph, its signatures and its samples; and where that comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from anabranch.variants.encoder_graph import EncoderShape
from anabranch.variants.tensors import Array, Request, Signature, TensorSpec
from anabranch.variants.wordpiece import TextEncoding

Progress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A BERT encoder's weights, for engines that do not take the ONNX graph.

    Args:
        weights: Tensors by checkpoint name, FP32.
        shape: The encoder's sizes.
        head: Weights (width, classes) and biases (classes,).
    """

    weights: Mapping[str, Array]
    shape: EncoderShape
    head: tuple[Array, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedModel:
    """A model in memory, ready for every recipe.

    Args:
        graph: The reference in FP32.
        half_attention: The same graph with FP16 attention; absent where there is no attention.
        feedforward: Nodes that `mixed` turns into INT8.
        attention: Nodes that `mixed` must turn into FP16.
        encoder: Weights for the torch engine, where the model is an encoder.
        keep: Nodes that stay in full precision in every INT8 recipe.
        signatures: What clients may send; the last one holds the graph's own inputs.
        outputs: What clients get.
        assets: Further files of every variant, by name.
        text: How text is encoded, where a signature takes text.
        training: Requests for the graph's own inputs that trained the model, one row each: what `int8-qat` may use.
        training_labels: Their right classes, shape (n,); absent where nobody knows.
        calibration: Requests for the graph's own inputs, one row each.
        evaluation: Held-out requests for the graph's own inputs, one row each.
        labels: The right class of every evaluation request, shape (n,); absent where nobody knows.
        probe: An inner tensor whose direction tells variants apart better than the outputs.
    """

    graph: onnx.ModelProto
    signatures: tuple[Signature, ...]
    outputs: tuple[TensorSpec, ...]
    half_attention: Callable[[], onnx.ModelProto] | None = None
    feedforward: frozenset[str] = frozenset()
    attention: frozenset[str] = frozenset()
    encoder: Encoder | None = None
    keep: frozenset[str] = frozenset()
    assets: Mapping[str, bytes] = field(default_factory=dict)
    text: TextEncoding | None = None
    training: tuple[Request, ...] = ()
    training_labels: NDArray[np.int64] | None = None
    calibration: tuple[Request, ...] = ()
    evaluation: tuple[Request, ...] = ()
    labels: NDArray[np.int64] | None = None
    probe: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model comes from; nothing is loaded until a variant has to be built.

    Args:
        name: What clients call the model.
        identity: Digests and settings that determine the prepared model; part of every variant's cache key.
        prepare: Loads the model; gets a folder to keep intermediate results in, and a progress callback.
    """

    name: str
    identity: Mapping[str, str]
    prepare: Callable[[Path, Progress], PreparedModel]
