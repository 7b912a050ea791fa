"""How soon true claims are decided, against the information lower bound. The limits leave room for chance."""

import math

import numpy as np
import pytest

from anabranch.bandit.betting import Claim, ContrastTest, EpochCell, MeanTest, Side
from anabranch.bandit.bounds import contrast_rate, lower_bound, paired_rate
from anabranch.bandit.paired import PairedTest

THRESHOLD = math.log(20)


def contrast_stop(
    test: ContrastTest,
    p_v: float,
    p_c: float,
    pi: float,
    size: int,
    limit: float,
    threshold: float,
    rng: np.random.Generator,
) -> float:
    state, requests = test.start(), 0
    while requests < limit:
        in_v = int(rng.binomial(size, pi))
        good_v, good_c = int(rng.binomial(in_v, p_v)), int(rng.binomial(size - in_v, p_c))
        counts_v, counts_c = {0: in_v - good_v, 1: good_v}, {0: size - in_v - good_c, 1: good_c}
        state = test.advance(state, [EpochCell(pi_v=pi, pi_c=1.0 - pi, counts_v=counts_v, counts_c=counts_c)])
        requests += size
        if test.log_e(state) >= threshold:
            return requests
    return math.inf


@pytest.mark.parametrize(
    ("p", "margin", "pi", "most"),
    [(0.95, 0.02, 0.5, 1.35), (0.95, 0.01, 0.5, 1.35), (0.95, 0.02, 0.05, 1.4), (0.99, 0.02, 0.05, 1.5)],
)
def test_non_inferiority_of_an_equal_variant(p: float, margin: float, pi: float, most: float) -> None:
    rng = np.random.default_rng([5, int(1000 * p), int(1000 * margin), int(100 * pi)])
    least = lower_bound(contrast_rate(p_v=p, p_c=p, margin=margin, pi_v=pi, pi_c=1.0 - pi), alpha=0.05)
    test = ContrastTest(claim=Claim.NON_INFERIORITY, margin=margin, planned_mean=p)
    size = round(least / 30)
    stops = [contrast_stop(test, p, p, pi, size, 15 * least, THRESHOLD, rng) for _ in range(120)]
    assert np.mean(stops) / least < most


@pytest.mark.parametrize(("errors", "most"), [(0.02, 1.5), (0.03, 1.6), (0.05, 1.9)])
def test_a_canary_with_more_errors_is_rolled_back_at_one_percent(errors: float, most: float) -> None:
    rng = np.random.default_rng([6, int(1000 * errors)])
    least = lower_bound(
        contrast_rate(p_v=1.0 - errors, p_c=0.99, margin=0.0, pi_v=0.05, pi_c=0.95), alpha=0.01
    )
    test = ContrastTest(claim=Claim.HARM, planned_effect=-0.01, planned_mean=0.99)
    size = round(least / 30)
    stops = [
        contrast_stop(test, 1.0 - errors, 0.99, 0.05, size, 15 * least, math.log(100), rng)
        for _ in range(100)
    ]
    assert np.mean(stops) / least < most


@pytest.mark.parametrize("discordance", [0.01, 0.02, 0.04])
def test_paired_non_inferiority_of_an_equal_variant(discordance: float) -> None:
    rng = np.random.default_rng([7, int(1000 * discordance)])
    least = lower_bound(paired_rate(discordance=discordance, effect=0.0, margin=0.01), alpha=0.05)
    test = PairedTest(claim=Claim.NON_INFERIORITY, margin=0.01, planned_discordance=discordance)
    stops = []
    for _ in range(150):
        state, pairs = test.start(), 0
        while pairs < 15 * least and test.log_e(state) < THRESHOLD:
            draws = rng.multinomial(40, [discordance / 2.0, 1.0 - discordance, discordance / 2.0])
            state = test.advance(state, dict(enumerate(draws.tolist())))
            pairs += 40
        stops.append(pairs)
    assert np.mean(stops) / least < 1.45
    split = lower_bound(contrast_rate(p_v=0.95, p_c=0.95, margin=0.01, pi_v=0.5, pi_c=0.5), alpha=0.05)
    assert np.mean(stops) < split / 3.0


@pytest.mark.parametrize(("side", "truth"), [(Side.ABOVE, 0.995), (Side.BELOW, 0.98)])
def test_agreement_off_the_minimum_is_decided(side: Side, truth: float) -> None:
    rng = np.random.default_rng([8, side is Side.ABOVE])
    test = MeanTest(side=side, threshold=0.99, planned=truth)
    divergence = truth * math.log(truth / 0.99) + (1.0 - truth) * math.log((1.0 - truth) / 0.01)
    least = lower_bound(divergence, alpha=0.05)
    stops = []
    for _ in range(150):
        state, seen = test.start(), 0
        while seen < 15 * least and test.log_e(state) < THRESHOLD:
            good = int(rng.binomial(50, truth))
            state = test.advance(state, {0: 50 - good, 1: good})
            seen += 50
        stops.append(seen)
    assert np.mean(stops) / least < 1.4
