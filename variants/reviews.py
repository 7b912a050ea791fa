"""Labelled sentences for the sentiment model: film reviews and tweets that people scored.

Source:
    Hutto and Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text
    (ICWSM-14); the data travels in the source distribution of `vaderSentiment` (MIT).
"""

import html
import io
import tarfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from anabranch.variants.errors import FetchError
from anabranch.variants.packages import VADER, fetch_package, read_member

_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_FILES = {
    "movies": "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    "tweets": "hutto_ICWSM_2014/tweets_GroundTruth.txt",
}
# Scores run from -4 to 4; people do not agree on the sign of what is nearer to zero than this.
MIN_SCORE = 0.5


class Domain(StrEnum):
    """Where a sentence comes from."""

    MOVIES = "movies"
    TWEETS = "tweets"


class Split(StrEnum):
    """What a sentence may be used for."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    TRAFFIC = "traffic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One sentence; its label is 1 where people found it positive, 0 where negative."""

    text: str
    label: int
    domain: Domain


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewSplits:
    """Disjoint parts of the data; each keeps the share of both domains.

    Args:
        train: Fits the head; its first sentences calibrate static quantization.
        evaluate: Measures accuracy and parity at build time.
        traffic: What is left: for demonstrations, seen by no build.
    """

    train: tuple[Review, ...]
    evaluate: tuple[Review, ...]
    traffic: tuple[Review, ...]


def load_reviews(cache_dir: Path | None = None) -> tuple[Review, ...]:
    """Every sentence with a clear score, in file order; fetches the data package when it is not cached.

    Raises:
        FetchError: The package cannot be fetched or read.
    """
    package = fetch_package(VADER, cache_dir)
    inner = io.BytesIO(read_member(package, _ARCHIVE))
    return tuple(review for domain in Domain for review in _parse(_read_inner(inner, _FILES[domain]), domain))


def _read_inner(archive: io.BytesIO, member: str) -> bytes:
    """Read one file of a gzipped tar archive in memory.

    Raises:
        FetchError: The archive holds no such file.
    """
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        try:
            file = tar.extractfile(member)
        except KeyError:
            file = None
        if file is None:
            raise FetchError(f"the data package holds no {member}: it is not the pinned one")
        return file.read()


def _parse(data: bytes, domain: Domain) -> list[Review]:
    reviews: list[Review] = []
    for line in data.decode("utf-8").splitlines():
        fields = line.split("\t", 2)
        if len(fields) != 3:
            continue
        score = float(fields[1])
        text = html.unescape(fields[2]).strip()
        if abs(score) >= MIN_SCORE and text:
            reviews.append(Review(text=text, label=int(score > 0), domain=domain))
    return reviews


def split_reviews(reviews: tuple[Review, ...], *, train: int, evaluate: int, seed: int) -> ReviewSplits:
    """Deal the sentences out by one seeded permutation.

    Args:
        reviews: All sentences.
        train: How many fit the head.
        evaluate: How many are held out to measure with.
        seed: The permutation's seed; the same seed deals the same parts for ever.

    Raises:
        FetchError: There are fewer sentences than asked for.
    """
    if train + evaluate > len(reviews):
        raise FetchError(f"train {train} + evaluate {evaluate} sentences of {len(reviews)}: ask for fewer")
    order = np.random.default_rng(seed).permutation(len(reviews))
    parts = np.split(order, [train, train + evaluate])
    first, second, rest = (tuple(reviews[index] for index in part) for part in parts)
    return ReviewSplits(train=first, evaluate=second, traffic=rest)
