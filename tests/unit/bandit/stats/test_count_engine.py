import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.bandit.betting import Claim
from anabranch.bandit.counts import CountContrast, difference_interval
from anabranch.bandit.mixtures import Sides, beta_prior_size, log_above, log_below
from anabranch.bandit.scales import BINARY, GridScale, flipped

NON_INFERIORITY = CountContrast(claim=Claim.NON_INFERIORITY, margin=0.02)
SUPERIORITY = CountContrast(claim=Claim.SUPERIORITY)
HARM = CountContrast(claim=Claim.HARM, margin=0.02)
GRADED = GridScale(low=0.0, high=5.0, bins=6)
counts = st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda c: {0: c[0], 1: c[1]})


@settings(deadline=None)
@given(variant=counts, baseline=counts, margin=st.sampled_from([0.0, 0.02, 0.3]))
def test_the_search_finds_the_minimum_over_all_baseline_means(
    variant: dict[int, int], baseline: dict[int, int], margin: float
) -> None:
    test = CountContrast(claim=Claim.NON_INFERIORITY, margin=margin)
    found = test.log_e(variant, baseline)
    n, m = sum(variant.values()), sum(baseline.values())
    if not (n and m):
        assert found == 0.0
        return
    size = beta_prior_size(test.planned_count, test.alpha, Sides.ONE)
    ends = np.geomspace(1e-9, 1e-2, 200)
    q = np.concatenate((margin + ends, np.linspace(margin + 1e-3, 1.0 - 1e-3, 4_001), 1.0 - ends))
    everywhere = log_above(variant[1], n, np.maximum(q - margin, 1e-9), size) + log_below(
        baseline[1], m, q, size
    )
    least = float(everywhere.min())
    assert found <= least + 1e-9
    assert found >= least - 0.02 - 0.01 * abs(least)


@given(
    successes=st.integers(0, 500),
    failures=st.integers(0, 500),
    size=st.sampled_from([3.0, 60.0, 2_000.0]),
)
def test_evidence_above_a_threshold_falls_in_the_threshold(
    successes: int, failures: int, size: float
) -> None:
    """What lets the search drop stretches by their ends."""
    values = log_above(successes, successes + failures, np.linspace(1e-6, 1.0 - 1e-6, 801), size)
    assert float(np.diff(values).max()) < 1e-8


@settings(deadline=None)
@given(variant=counts, baseline=counts)
def test_harm_without_a_margin_is_superiority_with_the_arms_exchanged(
    variant: dict[int, int], baseline: dict[int, int]
) -> None:
    harm = CountContrast(claim=Claim.HARM)
    assert harm.log_e(variant, baseline) == SUPERIORITY.log_e(baseline, variant)


@settings(deadline=None, max_examples=30)
@given(variant=counts, baseline=counts)
def test_failures_of_the_baseline_against_failures_of_the_variant_are_the_same_claim(
    variant: dict[int, int], baseline: dict[int, int]
) -> None:
    turned = NON_INFERIORITY.log_e(flipped(BINARY, baseline), flipped(BINARY, variant))
    assert turned == pytest.approx(NON_INFERIORITY.log_e(variant, baseline), abs=0.02, rel=0.01)


def test_the_true_claim_gains_evidence_and_its_opposite_does_not() -> None:
    variant, baseline = {0: 150, 1: 2_850}, {0: 150, 1: 2_850}
    assert NON_INFERIORITY.log_e(variant, baseline) > 3.0
    assert HARM.log_e(variant, baseline) < 0.0
    worse = {0: 300, 1: 2_700}
    assert HARM.log_e(worse, baseline) > 5.0
    assert NON_INFERIORITY.log_e(worse, baseline) < 0.0


def test_a_graded_metric_is_told_apart_by_its_small_variance() -> None:
    test = CountContrast(claim=Claim.NON_INFERIORITY, scale=GRADED, margin=0.25)
    narrow = test.log_e({4: 200, 3: 10}, {4: 200, 3: 10})
    wide = test.log_e({5: 160, 0: 40}, {5: 160, 0: 40})
    assert narrow > 5.0 > wide


def test_the_interval_holds_the_differences_that_are_not_refuted() -> None:
    variant, baseline = {0: 300, 1: 2_700}, {0: 150, 1: 2_850}
    low, high = difference_interval(BINARY, variant, baseline, alpha=0.05)
    assert low < -0.05 < high < 0.0
    mirrored = difference_interval(BINARY, baseline, variant, alpha=0.05)
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)
    few = difference_interval(BINARY, {0: 3, 1: 27}, {0: 2, 1: 28}, alpha=0.05)
    assert few[1] - few[0] > 5 * (high - low)


def test_without_data_nothing_is_said() -> None:
    assert NON_INFERIORITY.log_e({}, {1: 5}) == 0.0
    assert difference_interval(GRADED, {}, {5: 3}, alpha=0.05) == (-5.0, 5.0)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.999, 1.0])
def test_a_hundred_million_outcomes_give_finite_evidence(share: float) -> None:
    n = 50_000_000
    variant = {0: n - round(share * n), 1: round(share * n)}
    value = NON_INFERIORITY.log_e(variant, variant)
    assert math.isfinite(value)
    assert value > 1_000.0
    low, high = difference_interval(BINARY, variant, variant, alpha=0.05)
    assert -0.001 < low < 0.0 < high < 0.001


def test_claims_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="leave it 0"):
        CountContrast(claim=Claim.SUPERIORITY, margin=0.1)
    with pytest.raises(ValueError, match="below the scale's width"):
        CountContrast(claim=Claim.HARM, margin=1.0)
