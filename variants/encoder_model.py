"""An uncased BERT encoder with a linear head fitted to labelled texts, ready for every recipe.

Clients send `text`, or `input_ids` and `attention_mask`; they get `logits`, one a class.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.datasets import LabelledText
from anabranch.variants.encoder_graph import (
    AttentionPrecision,
    EncoderShape,
    attention_nodes,
    encoder_graph,
    feedforward_nodes,
)
from anabranch.variants.head import fit_logistic
from anabranch.variants.measure import run_all
from anabranch.variants.models import Encoder, PreparedModel, Progress
from anabranch.variants.safetensors_file import load_tensors, save_tensors
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.tensors import Array, Datatype, Request, Signature, TensorSpec
from anabranch.variants.wordpiece import TextEncoding, WordPiece

INVERSE_PENALTY = 1.0
CALIBRATE = 128
_PIECES = "vocab.txt"

SIGNATURES = (
    Signature(name="text", inputs=(TensorSpec(name="text", datatype=Datatype.BYTES, shape=(-1,)),)),
    Signature(
        name="tokens",
        inputs=(
            TensorSpec(name="input_ids", datatype=Datatype.INT64, shape=(-1, -1)),
            TensorSpec(name="attention_mask", datatype=Datatype.INT64, shape=(-1, -1)),
        ),
    ),
)
OUTPUTS = (TensorSpec(name="logits", datatype=Datatype.FP32, shape=(-1, 2)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFiles:
    """What an encoder is loaded from.

    Args:
        weights: Tensors by their names in a Hugging Face `BertModel` checkpoint.
        vocabulary: The WordPiece vocabulary, one piece a line.
        shape: The encoder's sizes.
        max_tokens: Longer texts are cut here.
    """

    weights: Path
    vocabulary: Path
    shape: EncoderShape
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSplits:
    """Disjoint labelled texts of two classes.

    Args:
        train: Fits the head and may train variants; its first texts calibrate static quantization.
        evaluate: Measures and judges variants.
    """

    train: Sequence[LabelledText]
    evaluate: Sequence[LabelledText]


def prepare_encoder(
    files: EncoderFiles,
    splits: TextSplits,
    work: Path,
    progress: Progress,
    identity: Mapping[str, str],
    *,
    threads: int,
) -> PreparedModel:
    """Load an encoder, tokenize the texts and fit the head.

    Args:
        files: The encoder.
        splits: The texts.
        work: A folder that keeps the head for later builds.
        progress: Takes a line before each part of the work.
        identity: Digests and settings that determine the head.
        threads: Threads that compute the embeddings that the head is fitted to.

    Raises:
        VariantError: A file is not what it should be.
        BuildError: The weights are not an encoder's, or the texts hold one class only.
    """
    progress("read the model")
    weights = without_prefix(load_tensors(files.weights))
    pieces = WordPiece.from_file(files.vocabulary, max_tokens=files.max_tokens)
    training = [_tokens(pieces, item) for item in splits.train]
    shape = files.shape
    head = _load_or_fit_head(weights, shape, training, splits.train, work, progress, identity, threads)
    return PreparedModel(
        graph=encoder_graph(weights, shape, head=head),
        half_attention=lambda: encoder_graph(weights, shape, head=head, attention=AttentionPrecision.FP16),
        feedforward=feedforward_nodes(shape.layers),
        attention=attention_nodes(shape.layers),
        encoder=Encoder(weights=weights, shape=shape, head=head),
        keep=frozenset({"head"}),
        signatures=SIGNATURES,
        outputs=OUTPUTS,
        assets={_PIECES: files.vocabulary.read_bytes()},
        text=TextEncoding(
            vocabulary=_PIECES, vocabulary_size=pieces.vocabulary_size, max_tokens=files.max_tokens
        ),
        training=tuple(training),
        training_labels=_labels(splits.train),
        calibration=tuple(training[:CALIBRATE]),
        evaluation=tuple(_tokens(pieces, item) for item in splits.evaluate),
        labels=_labels(splits.evaluate),
        probe="embedding",
    )


def without_prefix(weights: dict[str, Array]) -> dict[str, Array]:
    """The weights by the names of a bare `BertModel`: models with a head of their own put `bert.` before them."""
    if any(name.startswith("embeddings.") for name in weights):
        return weights
    return {name.removeprefix("bert."): array for name, array in weights.items()}


def _tokens(pieces: WordPiece, item: LabelledText) -> Request:
    ids = np.array([pieces.encode(item.text)], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _labels(items: Sequence[LabelledText]) -> NDArray[np.int64]:
    return np.array([item.label for item in items], dtype=np.int64)


def _load_or_fit_head(
    weights: Mapping[str, Array],
    shape: EncoderShape,
    training: Sequence[Request],
    items: Sequence[LabelledText],
    work: Path,
    progress: Progress,
    identity: Mapping[str, str],
    threads: int,
) -> tuple[Array, Array]:
    """The head is kept beside the variants, so that a later build of one more variant does not fit it again."""
    key = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]
    saved = work / f"head-{key}.safetensors"
    if saved.is_file():
        tensors = load_tensors(saved)
        return np.array(tensors["weight"]), np.array(tensors["bias"])
    progress(f"embed {len(training)} texts and fit the head")
    session = OnnxSession(encoder_graph(weights, shape).SerializeToString(), threads=threads)
    embeddings = run_all(session, training)["embedding"]
    weight, bias = fit_logistic(embeddings, _labels(items), inverse_penalty=INVERSE_PENALTY)
    work.mkdir(parents=True, exist_ok=True)
    draft = saved.with_suffix(f".{os.getpid()}.tmp")
    save_tensors(draft, {"weight": weight, "bias": bias})
    draft.replace(saved)
    return weight, bias
