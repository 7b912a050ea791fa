"""The ratio test of quantiles: rarely wrong at the border of the null, and soon enough when the claim is true."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from anabranch.bandit.bounds import lower_bound, quantile_rate
from anabranch.bandit.quantiles import QuantileRatioTest, RatioClaim, quantile_interval
from anabranch.bandit.scales import LATENCY_SCALE, FloatArray

AtMost = Callable[[int, int, float], bool]
Sampler = Callable[[np.random.Generator, int], FloatArray]


def lognormal(rng: np.random.Generator, size: int) -> FloatArray:
    return 10.0 * np.exp(rng.normal(0.0, 0.6, size))


def pareto(rng: np.random.Generator, size: int) -> FloatArray:
    return 5.0 * (1.0 + rng.pareto(2.1, size))


def cold_start(rng: np.random.Generator, size: int) -> FloatArray:
    return np.where(rng.random(size) < 0.03, 20.0, 1.0) * 10.0 * np.exp(rng.normal(0.0, 0.2, size))


def histogram(values: FloatArray) -> dict[int, int]:
    bins, counts = np.unique(LATENCY_SCALE.bins_of(values), return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))


def stop(
    test: QuantileRatioTest,
    sample: Sampler,
    scale: float,
    pi: float,
    size: int,
    looks: int,
    rng: np.random.Generator,
) -> float:
    state = test.start()
    for look in range(1, looks + 1):
        in_v = int(rng.binomial(size, pi))
        state = test.advance(state, histogram(scale * sample(rng, in_v)), histogram(sample(rng, size - in_v)))
        if test.log_e(state) >= math.log(20):
            return look * size
    return math.inf


@pytest.mark.parametrize("sample", [lognormal, pareto, cold_start])
@pytest.mark.parametrize(("tau", "ratio"), [(0.5, 1.0), (0.95, 1.0), (0.99, 1.1)])
def test_a_variant_slower_by_the_margin_is_rarely_promoted(
    sample: Sampler, tau: float, ratio: float, plausibly_at_most: AtMost
) -> None:
    rng = np.random.default_rng([12, int(100 * tau), int(100 * ratio)])
    test = QuantileRatioTest(claim=RatioClaim.BELOW, tau=tau, ratio=ratio, planned_count=2000.0)
    runs = 40
    false = sum(math.isfinite(stop(test, sample, ratio, 0.5, 300, 12, rng)) for _ in range(runs))
    assert plausibly_at_most(false, runs, 0.05)


@pytest.mark.parametrize(
    ("tau", "ratio", "truth", "pi", "most"),
    [
        (0.5, 1.0, 0.9, 0.5, 2.4),
        (0.5, 1.0, 0.8, 0.1, 2.4),
        (0.95, 1.0, 0.9, 0.5, 2.4),
        (0.99, 1.0, 0.8, 0.5, 2.4),
    ],
)
def test_a_faster_variant_is_found(tau: float, ratio: float, truth: float, pi: float, most: float) -> None:
    x = np.linspace(-3.0, 3.0, 4001)
    rate = quantile_rate(
        below_v=stats.norm.cdf((x + math.log(ratio / truth)) / 0.6),
        below_c=stats.norm.cdf(x / 0.6),
        tau=tau,
        pi_v=pi,
        pi_c=1.0 - pi,
    )
    least = lower_bound(rate, alpha=0.05)
    test = QuantileRatioTest(
        claim=RatioClaim.BELOW,
        tau=tau,
        ratio=ratio,
        planned_count=1.5 * pi * least,
        planned_count_baseline=1.5 * (1.0 - pi) * least,
    )
    rng = np.random.default_rng([13, int(100 * tau), int(100 * truth), int(100 * pi)])
    stops = np.array([stop(test, lognormal, truth, pi, round(least / 10), 150, rng) for _ in range(40)])
    assert np.isfinite(stops).all()
    assert stops.mean() / least < most


@pytest.mark.parametrize("tau", [0.5, 0.95, 0.99])
def test_the_interval_covers_the_quantile_at_all_looks(tau: float, plausibly_at_most: AtMost) -> None:
    rng = np.random.default_rng([14, int(100 * tau)])
    truth = 10.0 * math.exp(0.6 * float(stats.norm.ppf(tau)))
    runs, missed = 150, 0
    for _ in range(runs):
        values = lognormal(rng, 4000)
        looks = [
            quantile_interval(LATENCY_SCALE, histogram(values[:count]), tau, alpha=0.05, planned_count=2000.0)
            for count in (50, 100, 200, 400, 800, 1500, 2500, 4000)
        ]
        missed += any(not low <= truth <= high for low, high in looks)
    assert plausibly_at_most(missed, runs, 0.05)
