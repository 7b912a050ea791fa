"""An encoder as Hugging Face's libraries save it: `config.json`, `model.safetensors` and `vocab.txt` in a folder.

Only what the graph computes is accepted: BERT with absolute positions, exact GELU and an uncased WordPiece tokenizer.
Pickled weights (`pytorch_model.bin`) are never read.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anabranch.variants.datasets import LabelledText
from anabranch.variants.encoder_graph import EncoderShape
from anabranch.variants.encoder_model import (
    CALIBRATE,
    INVERSE_PENALTY,
    EncoderFiles,
    TextSplits,
    prepare_encoder,
)
from anabranch.variants.errors import VariantError
from anabranch.variants.models import ModelSource
from anabranch.variants.packages import file_sha256

_CONFIG, _WEIGHTS, _VOCABULARY = "config.json", "model.safetensors", "vocab.txt"
_REQUIRED = {"model_type": "bert", "hidden_act": "gelu"}
_SEED = 20_261_125
# A third measures, but no more than tell half a point apart.
_MOST_EVALUATED = 2_000
_LEAST = 30


def folder_source(
    folder: Path, texts: Sequence[LabelledText], model: str, *, threads: int = 2
) -> ModelSource:
    """The encoder of a folder with a head fitted to labelled texts.

    Two thirds of the texts, by a seeded permutation, fit the head and calibrate; the others measure, at most 2,000.

    Args:
        folder: The three files.
        texts: At least 30 labelled texts of two classes.
        model: What clients call the model.
        threads: Threads that compute the embeddings that the head is fitted to.

    Raises:
        VariantError: A file is missing, the encoder is of another kind, or the texts are too few.
    """
    for name in (_CONFIG, _WEIGHTS, _VOCABULARY):
        if not (folder / name).is_file():
            raise VariantError(
                f"{folder} holds no {name}: save the encoder with safetensors and an uncased tokenizer"
            )
    if len(texts) < _LEAST:
        raise VariantError(f"{len(texts)} texts, must be at least {_LEAST} to fit a head and measure it")
    shape, max_tokens = read_shape(folder)
    splits = _split(texts)
    identity = {name: file_sha256(folder / name) for name in (_CONFIG, _WEIGHTS, _VOCABULARY)}
    identity["texts"] = hashlib.sha256(
        json.dumps([(item.text, item.label) for item in texts]).encode()
    ).hexdigest()
    identity["head"] = f"logistic, train {len(splits.train)}, seed {_SEED}, inverse penalty {INVERSE_PENALTY}"
    identity["calibration"] = f"the first {CALIBRATE} training texts"
    files = EncoderFiles(
        weights=folder / _WEIGHTS, vocabulary=folder / _VOCABULARY, shape=shape, max_tokens=max_tokens
    )
    return ModelSource(
        name=model,
        identity=identity,
        prepare=lambda work, progress: prepare_encoder(
            files, splits, work, progress, identity, threads=threads
        ),
    )


def read_shape(folder: Path) -> tuple[EncoderShape, int]:
    """The encoder's sizes and its longest text in tokens.

    Raises:
        VariantError: The configuration is unreadable, or describes another kind of model.
    """
    config = _json(folder / _CONFIG)
    for name, wanted in _REQUIRED.items():
        if config.get(name) != wanted:
            raise VariantError(
                f"{folder}: {name} is {config.get(name)!r}, must be {wanted!r}: export it to ONNX instead"
            )
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise VariantError(
            f"{folder}: positions are {positions!r}, must be 'absolute': export it to ONNX instead"
        )
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file() and _json(tokenizer).get("do_lower_case", True) is False:
        raise VariantError(f"{folder}: the tokenizer keeps upper case, must be an uncased one")
    try:
        shape = EncoderShape(
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            width=int(config["hidden_size"]),
            norm_epsilon=float(config.get("layer_norm_eps", 1e-12)),
        )
        return shape, int(config["max_position_embeddings"])
    except KeyError as error:
        raise VariantError(f"{folder}: {_CONFIG} lacks {error}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VariantError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise VariantError(f"{path} holds a {type(found).__name__}, must hold an object")
    return found


def _split(texts: Sequence[LabelledText]) -> TextSplits:
    order = np.random.default_rng(_SEED).permutation(len(texts))
    evaluated = min(len(texts) // 3, _MOST_EVALUATED)
    return TextSplits(
        train=[texts[index] for index in order[evaluated:]],
        evaluate=[texts[index] for index in order[:evaluated]],
    )
