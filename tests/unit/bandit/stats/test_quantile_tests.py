import json
import math
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.bandit.mixtures import Sides, beta_prior_size, log_above, log_below
from anabranch.bandit.quantiles import (
    QuantileRatioTest,
    QuantileState,
    RatioClaim,
    counts_at_or_below,
    quantile,
    quantile_interval,
    threshold_counts,
)
from anabranch.bandit.scales import LATENCY_SCALE, LogScale

COARSE = LogScale(gamma=1.1, low=0.1, high=1000.0)
Latencies = st.lists(st.floats(min_value=0.0, max_value=3000.0), max_size=40)


def histogram(scale: LogScale, values: npt.ArrayLike) -> dict[int, int]:
    bins, counts = np.unique(scale.bins_of(values), return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))


def lognormal(
    rng: np.random.Generator, median: float, count: int, scale: LogScale = LATENCY_SCALE
) -> dict[int, int]:
    return histogram(scale, median * np.exp(rng.normal(0.0, 0.5, count)))


def state_of(test: QuantileRatioTest, variant: dict[int, int], baseline: dict[int, int]) -> QuantileState:
    return test.advance(test.start(), variant, baseline)


@given(
    variant=Latencies,
    baseline=Latencies,
    ratio=st.sampled_from([0.7, 0.95, 1.0, 1.05, 1.5]),
    tau=st.sampled_from([0.5, 0.9]),
)
def test_the_refined_search_finds_the_minimum_over_all_places(
    variant: list[float], baseline: list[float], ratio: float, tau: float
) -> None:
    test = QuantileRatioTest(claim=RatioClaim.BELOW, tau=tau, ratio=ratio, scale=COARSE, planned_count=100.0)
    shift = round(math.log(test.tested_ratio) / math.log(COARSE.gamma))
    v = [COARSE.bin_of(value) for value in variant]
    c = [COARSE.bin_of(value) for value in baseline]
    size = beta_prior_size(100.0, 0.05, Sides.ONE)
    least = math.inf
    for k in range(COARSE.bins):
        # All x inside bucket k: the variant's share at its lower border times the ratio, the baseline's at its upper.
        border = min(k - 1 + shift, COARSE.bins - 2) if k else -1
        faster = sum(index <= border for index in v)
        slower = sum(index <= k for index in c)
        least = min(
            least, float(log_above(faster, len(v), tau, size)) + float(log_below(slower, len(c), tau, size))
        )
    state = state_of(test, histogram(COARSE, variant), histogram(COARSE, baseline))
    assert test.log_e(state) == pytest.approx(least, abs=1e-9)


def test_a_faster_variant_is_evidence_below_and_none_above() -> None:
    rng = np.random.default_rng(1)
    fast, slow = lognormal(rng, 7.0, 4000), lognormal(rng, 10.0, 4000)
    below = QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.95)
    above = QuantileRatioTest(claim=RatioClaim.ABOVE, tau=0.95)
    assert below.log_e(state_of(below, fast, slow)) > math.log(20)
    assert above.log_e(state_of(above, fast, slow)) < 0.0
    assert below.estimate(state_of(below, fast, slow)) == pytest.approx(0.7, rel=0.05)


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.05])
def test_above_is_below_with_the_arms_permuted_and_the_ratio_turned_around(ratio: float) -> None:
    rng = np.random.default_rng(2)
    one, other = lognormal(rng, 8.0, 500), lognormal(rng, 10.0, 700)
    below = QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.9, ratio=ratio)
    above = QuantileRatioTest(claim=RatioClaim.ABOVE, tau=0.9, ratio=1.0 / ratio)
    assert below.log_e(state_of(below, one, other)) == pytest.approx(
        above.log_e(state_of(above, other, one)), abs=1e-9
    )


def test_replicas_may_be_merged_or_not() -> None:
    rng = np.random.default_rng(3)
    test = QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.9)
    parts = [(lognormal(rng, 8.0, 100), lognormal(rng, 10.0, 300)) for _ in range(3)]
    forward, backward = test.start(), test.start()
    for variant, baseline in parts:
        forward = test.advance(forward, variant, baseline)
    for variant, baseline in reversed(parts):
        backward = test.advance(backward, variant, baseline)
    assert forward == backward
    assert json.loads(json.dumps(asdict(forward)))["variant"][0] == list(forward.variant[0])


def test_rescaling_the_unit_by_whole_buckets_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    test = QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.95, ratio=1.05)
    variant, baseline = lognormal(rng, 8.0, 500), lognormal(rng, 9.0, 500)

    def moved(counts: dict[int, int]) -> dict[int, int]:
        return {index + 400: count for index, count in counts.items()}

    assert test.log_e(state_of(test, variant, baseline)) == pytest.approx(
        test.log_e(state_of(test, moved(variant), moved(baseline))), abs=1e-9
    )


@pytest.mark.parametrize("ratio", [0.9, 1.0, 1.05, 1.1])
def test_the_tested_ratio_is_never_easier_than_the_claimed_one(ratio: float) -> None:
    below = QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.9, ratio=ratio).tested_ratio
    above = QuantileRatioTest(claim=RatioClaim.ABOVE, tau=0.9, ratio=ratio).tested_ratio
    assert ratio / LATENCY_SCALE.gamma < below <= ratio * (1.0 + 1e-9)
    assert ratio * (1.0 - 1e-9) <= above < ratio * LATENCY_SCALE.gamma


def test_timeouts_of_the_variant_count_against_it() -> None:
    test = QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.95)
    timeout = LATENCY_SCALE.bin_of(math.inf)
    baseline = {LATENCY_SCALE.bin_of(10.0): 3000}
    quick = {LATENCY_SCALE.bin_of(1.0): 3000}
    assert test.log_e(state_of(test, quick, baseline)) > math.log(20)
    broken = {LATENCY_SCALE.bin_of(1.0): 2700, timeout: 300}
    assert test.log_e(state_of(test, broken, baseline)) < 0.0
    assert test.estimate(state_of(test, broken, baseline)) == math.inf
    assert test.estimate(state_of(test, baseline, broken)) is None


def test_a_baseline_that_times_out_loses() -> None:
    test = QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.95)
    slow = {LATENCY_SCALE.bin_of(10.0): 2000, LATENCY_SCALE.bin_of(math.inf): 1000}
    assert test.log_e(state_of(test, {LATENCY_SCALE.bin_of(5.0): 3000}, slow)) > math.log(20)


def test_no_data_is_no_evidence() -> None:
    test = QuantileRatioTest(claim=RatioClaim.ABOVE, tau=0.99)
    assert test.log_e(test.start()) == pytest.approx(0.0, abs=1e-9)
    assert test.estimate(test.start()) is None


def test_a_hundred_million_outcomes_give_finite_evidence() -> None:
    test = QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.99, planned_count=1e6)
    variant = {LATENCY_SCALE.bin_of(1.0 + 0.01 * k): 1_000_000 for k in range(100)}
    baseline = {LATENCY_SCALE.bin_of(2.0 + 0.01 * k): 1_000_000 for k in range(100)}
    log_e = test.log_e(state_of(test, variant, baseline))
    assert math.isfinite(log_e)
    assert log_e > 1e4


@given(
    values=st.lists(st.floats(0.02, 90_000.0), min_size=1, max_size=60),
    tau=st.sampled_from([0.5, 0.95, 0.99]),
)
def test_the_estimate_is_the_order_statistic_within_half_a_bucket(values: list[float], tau: float) -> None:
    exact = sorted(values)[math.ceil(tau * len(values) - 1e-9) - 1]
    found = quantile(LATENCY_SCALE, histogram(LATENCY_SCALE, values), tau)
    assert found == pytest.approx(exact, rel=(LATENCY_SCALE.gamma - 1.0) / 2.0)


@pytest.mark.parametrize("tau", [0.5, 0.95, 0.99])
def test_the_interval_holds_the_estimate_and_shrinks(tau: float) -> None:
    rng = np.random.default_rng(5)
    widths = []
    for count in (100, 10_000, 1_000_000):
        counts = lognormal(rng, 10.0, count)
        low, high = quantile_interval(LATENCY_SCALE, counts, tau, alpha=0.05)
        estimate = quantile(LATENCY_SCALE, counts, tau)
        assert estimate is not None
        assert low <= estimate <= high
        widths.append(math.log(high / low) if low > 0.0 else math.inf)
    assert widths[0] > widths[1] > widths[2]


def test_without_data_nothing_is_excluded() -> None:
    assert quantile_interval(LATENCY_SCALE, {}, 0.5, alpha=0.05) == (0.0, math.inf)
    assert quantile(LATENCY_SCALE, {}, 0.5) is None


def test_threshold_counts_are_the_share_at_or_below_a_border() -> None:
    counts = histogram(COARSE, [1.0, 2.0, 3.0, math.inf])
    border = COARSE.bin_of(2.0)
    assert threshold_counts(COARSE, counts, border) == {0: 2, 1: 2}
    assert counts_at_or_below(COARSE, counts)[border] == 2
    with pytest.raises(ValueError, match="finite upper border"):
        threshold_counts(COARSE, counts, COARSE.bins - 1)


def test_impossible_claims_are_refused() -> None:
    with pytest.raises(ValueError, match=r"quantile 1\.0 must be"):
        QuantileRatioTest(claim=RatioClaim.BELOW, tau=1.0)
    with pytest.raises(ValueError, match=r"ratio 0\.0 must be"):
        QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.5, ratio=0.0)
    with pytest.raises(ValueError, match="planned count"):
        QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.5, planned_count=0.0)
