"""The count engine under adaptive weights: rarely wrong while the arms stand still, and near its lower bound."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from anabranch.bandit.betting import Claim
from anabranch.bandit.bounds import contrast_rate, lower_bound
from anabranch.bandit.counts import CountContrast, difference_interval
from anabranch.bandit.scales import BINARY

AtMost = Callable[[int, int, float], bool]
Counts = dict[int, int]


def split(
    variant: Counts, baseline: Counts, p_v: float, p_c: float, pi: float, size: int, rng: np.random.Generator
) -> None:
    """Add one segment's outcomes in place."""
    in_v = int(rng.binomial(size, pi))
    for counts, n, p in ((variant, in_v, p_v), (baseline, size - in_v, p_c)):
        good = int(rng.binomial(n, p))
        counts[0] += n - good
        counts[1] += good


@pytest.mark.parametrize(("p", "margin"), [(0.95, 0.02), (0.99, 0.01), (0.6, 0.05)])
def test_a_variant_worse_by_the_margin_is_rarely_called_sound(
    p: float, margin: float, plausibly_at_most: AtMost
) -> None:
    rng = np.random.default_rng([71, int(1_000 * p)])
    test = CountContrast(claim=Claim.NON_INFERIORITY, margin=margin)
    runs, wrong, missed = 80, 0, 0
    for _ in range(runs):
        variant, baseline = {0: 0, 1: 0}, {0: 0, 1: 0}
        decided = outside = False
        for _ in range(20):
            # An adaptive split: the arm that looks better gets more.
            ahead = variant[1] * sum(baseline.values()) > baseline[1] * sum(variant.values())
            split(variant, baseline, p - margin, p, 0.6 if ahead else 0.2, 600, rng)
            decided |= test.log_e(variant, baseline) >= math.log(20.0)
        low, high = difference_interval(BINARY, variant, baseline, alpha=0.05)
        outside = not low <= -margin <= high
        wrong += decided
        missed += outside
    assert plausibly_at_most(wrong, runs, 0.05)
    assert plausibly_at_most(missed, runs, 0.05)


def test_an_equal_variant_is_called_sound_within_twice_the_lower_bound() -> None:
    rng = np.random.default_rng(72)
    least = lower_bound(contrast_rate(p_v=0.95, p_c=0.95, margin=0.02, pi_v=0.5, pi_c=0.5), alpha=0.05)
    test = CountContrast(claim=Claim.NON_INFERIORITY, margin=0.02, planned_count=least / 2.0)
    stops = []
    for _ in range(60):
        variant, baseline = {0: 0, 1: 0}, {0: 0, 1: 0}
        seen = 0
        while seen < 15 * least and test.log_e(variant, baseline) < math.log(20.0):
            split(variant, baseline, 0.95, 0.95, 0.5, 100, rng)
            seen += 100
        stops.append(seen)
    assert np.mean(stops) / least < 1.7
