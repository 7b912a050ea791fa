"""What a check says: exact bounds, honest misses, and nothing that was not run counts as passed."""

import math

import numpy as np
import pytest
from scipy import stats

from anabranch.bandit.validation.checks import (
    Check,
    Sense,
    bias_check,
    mean_check,
    median_check,
    not_run,
    number_check,
    rate_check,
)


@pytest.mark.parametrize(("events", "runs"), [(0, 50), (1, 50), (12, 200), (200, 200)])
def test_a_frequency_is_held_by_the_exact_bound(events: int, runs: int) -> None:
    at_most = rate_check("V1", "x", events, runs, 0.05)
    at_least = rate_check("V1", "x", events, runs, 0.95, sense=Sense.AT_LEAST)
    assert at_most.bound is not None
    assert at_least.bound is not None
    # The bound is where so many events, or more, have a probability of 1 %.
    if events:
        assert stats.binom.sf(events - 1, runs, at_most.bound) == pytest.approx(0.01, rel=1e-6)
    if events < runs:
        assert stats.binom.cdf(events, runs, at_least.bound) == pytest.approx(0.01, rel=1e-6)


def test_a_frequency_that_proves_a_miss_fails_and_one_within_chance_does_not() -> None:
    assert rate_check("V1", "x", 6, 100, 0.05).ok
    assert rate_check("V1", "x", 6, 100, 0.05).missed
    assert not rate_check("V1", "x", 15, 100, 0.05).ok
    assert not rate_check("V1", "x", 80, 100, 0.95, sense=Sense.AT_LEAST).ok


def test_means_and_medians_are_bounded_by_their_own_error() -> None:
    values = np.random.default_rng(1).normal(1.0, 0.5, 400)
    mean = mean_check("V3", "x", values, 0.9)
    assert mean.bound == pytest.approx(values.mean() - 2.3263 * values.std(ddof=1) / 20.0, rel=1e-4)
    assert not mean.ok
    assert mean_check("V3", "x", values, 0.99).ok
    median = median_check("V13", "x", values, 1.0)
    assert median.bound is not None
    assert stats.binom.cdf(int((values < median.bound).sum()) - 1, 400, 0.5) < 0.01


def test_a_run_without_an_end_makes_a_mean_infinite_and_says_so() -> None:
    check = mean_check("V3", "x", np.array([1.0, math.inf]), 2.0)
    assert check.ok is False
    assert check.note == "1 of 2 runs had no end"


def test_a_bias_is_compared_without_the_part_that_chance_explains() -> None:
    rng = np.random.default_rng(2)
    assert not bias_check("V7", "x", rng.normal(0.02, 0.01, 1000), 0.001).ok
    assert bias_check("V7", "x", rng.normal(-0.02, 0.01, 1000), 0.021).ok


def test_a_number_is_compared_as_it_is() -> None:
    assert number_check("V4", "x", 5.0, 5.0, sense=Sense.AT_LEAST).ok
    assert not number_check("V4", "x", 4.9, 5.0, sense=Sense.AT_LEAST).ok


def test_what_was_not_run_is_no_pass() -> None:
    check: Check = not_run("V16", "x", 1e-9, "its oracle is not installed")
    assert check.ok is None
    assert check.value is None
    assert not check.missed
