"""Histograms and counts."""

import random

import pytest

from anabranch.cli.bench.histogram import Histogram
from anabranch.cli.bench.tally import Tally, quantiles_ms
from anabranch.wire.client import Origin, Reply
from anabranch.wire.seam import Status


@pytest.mark.parametrize("share", [0.001, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_quantiles_are_within_half_a_per_cent(share: float) -> None:
    rng = random.Random(1)
    durations = sorted(rng.lognormvariate(-6, 1.5) for _ in range(20_000))
    histogram = Histogram()
    for duration in rng.sample(durations, len(durations)):
        histogram.add(duration)
    exact = durations[max(0, round(share * len(durations)) - 1)]
    assert histogram.quantile(share) == pytest.approx(exact, rel=0.0051)
    assert (histogram.total, histogram.longest_s) == (20_000, durations[-1])


def test_durations_beyond_the_buckets_are_counted_at_their_ends() -> None:
    histogram = Histogram()
    for duration in (-1.0, 0.0, 1e-9, 1e9):
        histogram.add(duration)
    assert histogram.total == 4
    assert histogram.quantile(0.5) == pytest.approx(1e-6, rel=0.01)
    assert histogram.longest_s == 1e9
    assert Histogram().quantile(0.5) is None


def test_latency_is_of_ok_answers_and_counts_from_the_intended_moment() -> None:
    tally = Tally()
    tally.begin(10.0, 10.5)
    tally.begin(10.1, 10.5)
    tally.end(10.0, 10.75, Reply(Status.OK, headers=[(b"x-invoked-variant", b"int8")]))
    tally.end(10.1, 99.0, Reply(Status.UNAVAILABLE, "gone", origin=Origin.CLIENT))
    assert dict(tally.ended) == {Status.OK: 1, Status.UNAVAILABLE: 1}
    assert dict(tally.variants) == {"int8": 1}
    assert tally.texts == {Status.UNAVAILABLE: "gone"}
    assert quantiles_ms(tally.latency).max == 750.0
    assert quantiles_ms(tally.lag).max == 500.0
    assert quantiles_ms(tally.lag).p50 == pytest.approx(400.0, rel=0.01)
