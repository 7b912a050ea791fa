"""The rivals are what they are called: against closed forms, published values and our own solver."""

import math

import numpy as np
import pytest
from scipy import stats

from anabranch.bandit.bounds import best_arm_shares
from anabranch.bandit.rivals import (
    asymptotic_cs,
    likelihood_ratio,
    mixture_sprt,
    probability_best,
    track_and_stop,
    z_test,
)
from anabranch.bandit.rivals.thresholds import Thresholds
from anabranch.bandit.rivals.two_arms import TwoArms


def arms(good_v: float, seen_v: float, good_c: float, seen_c: float) -> TwoArms:
    return TwoArms(
        good_v=np.array([good_v]),
        seen_v=np.array([seen_v]),
        good_c=np.array([good_c]),
        seen_c=np.array([seen_c]),
    )


@pytest.mark.parametrize("means", [(0.5, 0.45, 0.43, 0.4), (0.3, 0.21, 0.2, 0.19, 0.18), (0.2, 0.9)])
def test_tracked_shares_are_the_optimal_ones(means: tuple[float, ...]) -> None:
    shares = track_and_stop.optimal_shares(np.array([means, means[::-1]]))
    expected, _ = best_arm_shares(means)
    assert shares[0] == pytest.approx(expected, abs=1e-6)
    assert shares[1] == pytest.approx(expected[::-1], abs=1e-6)


def test_tracked_shares_are_those_of_the_paper() -> None:
    shares = track_and_stop.optimal_shares(np.array([[0.5, 0.45, 0.43, 0.4]]))[0]
    assert shares == pytest.approx([0.417, 0.390, 0.136, 0.057], abs=5e-4)


def test_tracking_spends_the_whole_epoch_on_what_is_missing() -> None:
    seen = np.array([[100.0, 10.0, 10.0]])
    counts = track_and_stop.tracked_counts(seen, np.array([[0.4, 0.4, 0.2]]), 30)
    assert counts.sum() == 30
    assert counts[0, 0] == 0
    assert counts[0, 1] > counts[0, 2] > 0


def test_the_likelihood_ratio_of_two_arms_is_that_of_their_pooled_mean() -> None:
    ratio, leader = track_and_stop.least_ratio(np.array([[60.0, 40.0]]), np.array([[100.0, 100.0]]))
    expected = (
        stats.binom.logpmf(60, 100, 0.6)
        + stats.binom.logpmf(40, 100, 0.4)
        - stats.binom.logpmf(60, 100, 0.5)
        - stats.binom.logpmf(40, 100, 0.5)
    )
    assert ratio[0] == pytest.approx(expected)
    assert leader[0] == 0


def test_an_asymptotic_sequence_is_the_published_formula() -> None:
    halfwidth = asymptotic_cs.halfwidth(arms(480, 500, 940, 1000), alpha=0.05)[0]
    variance = (0.96 * 0.04 / 500 + 0.94 * 0.06 / 1000) * 1500
    rho2 = (-2 * math.log(0.05) + math.log(1 - 2 * math.log(0.05))) / 5000
    expected = math.sqrt(
        variance * 2 * (1500 * rho2 + 1) / (1500**2 * rho2) * math.log(math.sqrt(1500 * rho2 + 1) / 0.05)
    )
    assert halfwidth == pytest.approx(expected)


def test_plug_in_rules_are_certain_when_no_failure_was_seen() -> None:
    """The flaw that the engine's tests do not have: a canary without failures has no plug-in variance."""
    lucky = arms(150, 150, 2860, 3000)
    assert z_test.differs(lucky)[0]
    assert asymptotic_cs.differs(lucky)[0]
    assert likelihood_ratio.differs(lucky)[0]
    assert mixture_sprt.differs(lucky)[0]


@pytest.mark.parametrize("rule", [asymptotic_cs, likelihood_ratio, mixture_sprt, z_test])
def test_rules_wait_for_their_minimum_and_mirror(rule: object) -> None:
    few, many = arms(60, 60, 10, 60), arms(600, 650, 100, 650)
    mirrored = arms(100, 650, 600, 650)
    assert not rule.differs(few)[0]  # type: ignore[attr-defined]  # a module with the verb of every rule
    assert rule.differs(many)[0]  # type: ignore[attr-defined]  # as above
    assert rule.differs(mirrored)[0]  # type: ignore[attr-defined]  # as above


def test_the_probability_of_being_best_is_that_of_the_posteriors() -> None:
    rng = np.random.default_rng(5)
    draws = rng.beta(56.0, 46.0, 200_000) > rng.beta(51.0, 51.0, 200_000)
    assert probability_best.probability(arms(55, 100, 50, 100))[0] == pytest.approx(draws.mean(), abs=0.005)


def test_thresholds_count_failed_intervals_and_skip_empty_ones() -> None:
    rule = Thresholds.start(2, least=0.98, failure_limit=1)
    for good, seen in (((97, 99), (100, 100)), ((0, 0), (0, 0)), ((97, 97), (100, 100))):
        rule.measure(np.array(good, dtype=np.float64), np.array(seen, dtype=np.float64))
    assert rule.rolled_back.tolist() == [True, False]


def test_the_planned_size_is_the_textbook_one() -> None:
    assert z_test.planned_size(p=0.95, margin=0.01, pi=0.5) == pytest.approx(11_748, rel=1e-3)
