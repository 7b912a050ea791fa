import math

import numpy as np
import pytest

from anabranch.bandit.bounds import (
    Method,
    bernoulli_kl,
    best_arm_shares,
    contrast_rate,
    lower_bound,
    paired_rate,
    planned_requests,
    quantile_rate,
    remaining_requests,
)


@pytest.mark.parametrize(
    ("p", "margin", "pi", "alpha", "expected"),
    [
        (0.95, 0.01, 0.5, 0.05, 11_431),
        (0.95, 0.02, 0.5, 0.05, 2_892),
        (0.95, 0.02, 0.1, 0.05, 9_482),
        (0.95, 0.02, 0.05, 0.05, 18_288),
        (0.95, 0.01, 0.5, 0.001, 26_359),
    ],
)
def test_non_inferiority_bound(p: float, margin: float, pi: float, alpha: float, expected: int) -> None:
    rate = contrast_rate(p_v=p, p_c=p, margin=margin, pi_v=pi, pi_c=1.0 - pi)
    assert lower_bound(rate, alpha=alpha) == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize(("discordance", "expected"), [(0.01, 790), (0.02, 1_321), (0.04, 2_462)])
def test_paired_bound(discordance: float, expected: int) -> None:
    rate = paired_rate(discordance=discordance, effect=0.0, margin=0.01)
    assert lower_bound(rate, alpha=0.05) == pytest.approx(expected, abs=1.0)


def test_pairs_are_at_least_four_times_cheaper_than_a_split_at_two_percent_discordance() -> None:
    split = contrast_rate(p_v=0.95, p_c=0.95, margin=0.01, pi_v=0.5, pi_c=0.5)
    assert paired_rate(discordance=0.02, effect=0.0, margin=0.01) > 4.0 * split


def test_at_the_margin_there_is_no_information() -> None:
    rate = contrast_rate(p_v=0.93, p_c=0.95, margin=0.02, pi_v=0.5, pi_c=0.5)
    assert rate == pytest.approx(0.0, abs=1e-12)
    assert planned_requests(0.0, alpha=0.05) == math.inf


def test_swapping_arms_and_outcomes_is_the_same_contrast() -> None:
    one = contrast_rate(p_v=0.97, p_c=0.94, margin=0.01, pi_v=0.2, pi_c=0.8)
    other = contrast_rate(p_v=0.06, p_c=0.03, margin=0.01, pi_v=0.8, pi_c=0.2)
    assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.parametrize(
    ("means", "shares", "time"),
    [
        ([0.5, 0.45, 0.43, 0.4], [0.417, 0.390, 0.136, 0.057], 989.8),
        ([0.3, 0.21, 0.2, 0.19, 0.18], [0.336, 0.251, 0.177, 0.132, 0.104], 326.6),
    ],
)
def test_best_arm_shares_equal_the_published_instances(
    means: list[float], shares: list[float], time: float
) -> None:
    found, characteristic_time = best_arm_shares(means)
    assert found.tolist() == pytest.approx(shares, abs=6e-4)
    assert characteristic_time == pytest.approx(time, abs=0.1)


def test_best_arm_shares_follow_their_arms() -> None:
    shares, _ = best_arm_shares([0.4, 0.5, 0.43, 0.45])
    straight, _ = best_arm_shares([0.5, 0.45, 0.43, 0.4])
    assert np.allclose(shares[[1, 3, 2, 0]], straight)


def test_equally_good_arms_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="unique largest"):
        best_arm_shares([0.5, 0.5])


def test_quantile_rate_is_the_cheapest_place_to_be_wrong() -> None:
    rate = quantile_rate(
        below_v=np.array([0.93, 0.97, 0.99]),
        below_c=np.array([0.90, 0.94, 0.97]),
        tau=0.95,
        pi_v=0.5,
        pi_c=0.5,
    )
    expected = min(
        0.5 * bernoulli_kl(0.90, 0.95),
        0.5 * bernoulli_kl(0.97, 0.95) + 0.5 * bernoulli_kl(0.94, 0.95),
        0.5 * bernoulli_kl(0.99, 0.95),
    )
    assert rate == pytest.approx(expected)


def test_more_candidates_take_longer() -> None:
    assert planned_requests(0.001, alpha=0.05, candidates=4) > planned_requests(0.001, alpha=0.05)
    assert planned_requests(0.001, alpha=0.05, method=Method.QUANTILE) > planned_requests(0.001, alpha=0.05)


def test_what_remains_is_what_evidence_lacks() -> None:
    assert remaining_requests(0.01, log_e=1.0, log_need=3.0) == pytest.approx(200.0)
    assert remaining_requests(0.01, log_e=-1.0, log_need=3.0) == pytest.approx(400.0)
    assert remaining_requests(0.0, log_e=4.0, log_need=3.0) == 0.0
    assert remaining_requests(0.0, log_e=1.0, log_need=3.0) == math.inf


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="rates"):
        contrast_rate(p_v=1.1, p_c=0.9, margin=0.0, pi_v=0.5, pi_c=0.5)
    with pytest.raises(ValueError, match="weights"):
        contrast_rate(p_v=0.9, p_c=0.9, margin=0.1, pi_v=0.7, pi_c=0.5)
    with pytest.raises(ValueError, match="discordance"):
        paired_rate(discordance=0.01, effect=0.02, margin=0.01)
    with pytest.raises(ValueError, match="alpha"):
        lower_bound(0.1, alpha=0.0)
    with pytest.raises(ValueError, match="candidates"):
        planned_requests(0.1, alpha=0.1, candidates=0)
