"""Ramps over a drifting base rate: where pooled means lie, the logged propensities do not."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from anabranch.bandit.betting import Claim, ContrastTest, EpochCell
from anabranch.bandit.sequences import contrast_interval
from anabranch.bandit.srm import SrmTest, UnitCell

AtMost = Callable[[int, int, float], bool]
RAMP = [0.05] * 10 + [0.10] * 10 + [0.25] * 10 + [0.50] * 10
SEGMENT = 500


def base_rate(segment: int, drift: str) -> float:
    if drift == "step":
        return 0.95 if segment < len(RAMP) // 2 else 0.85
    return 0.90 + 0.05 * math.sin(2.0 * math.pi * segment / 20.0)


@pytest.mark.parametrize("drift", ["step", "diurnal"])
@pytest.mark.parametrize("claim", [Claim.SUPERIORITY, Claim.HARM])
def test_equal_arms_under_drift_and_ramp(drift: str, claim: Claim, plausibly_at_most: AtMost) -> None:
    rng = np.random.default_rng([9, drift == "step", claim is Claim.HARM])
    test = ContrastTest(claim=claim)
    runs, false, missed = 80, 0, 0
    estimates: list[float] = []
    pooled: list[float] = []
    for _ in range(runs):
        state, top = test.start(), -math.inf
        good, seen = np.zeros(2), np.zeros(2)
        covered = True
        for segment, pi in enumerate(RAMP):
            p = base_rate(segment, drift)
            size = np.array([rng.binomial(SEGMENT, pi), 0])
            size[1] = SEGMENT - size[0]
            hits = rng.binomial(size, p)
            counts_v, counts_c = ({0: int(n - h), 1: int(h)} for n, h in zip(size, hits, strict=True))
            state = test.advance(
                state, [EpochCell(pi_v=pi, pi_c=1.0 - pi, counts_v=counts_v, counts_c=counts_c)]
            )
            top = max(top, test.log_e(state))
            if segment % 4 == 3:
                low, high = contrast_interval(test, state, alpha=0.05)
                covered = covered and low <= 0.0 <= high
            good, seen = good + hits, seen + size
        false += top >= math.log(20)
        missed += not covered
        estimates.append(test.estimate(state) or 0.0)
        pooled.append(float(good[0] / seen[0] - good[1] / seen[1]))
    assert plausibly_at_most(false, runs, 0.05)
    assert plausibly_at_most(missed, runs, 0.05)
    assert abs(np.mean(estimates)) < 4.0 * np.std(estimates) / math.sqrt(runs)
    if drift == "step":
        # The difference of pooled means, for comparison, is off by four points.
        assert np.mean(pooled) < -0.03


def test_units_that_follow_a_ramp_are_rarely_called_a_mismatch(plausibly_at_most: AtMost) -> None:
    rng = np.random.default_rng(10)
    test = SrmTest(arms=("base", "one", "two"))
    runs, false = 200, 0
    for _ in range(runs):
        state = test.start()
        for pi in RAMP:
            weights = {"base": 1.0 - pi - 0.1, "one": pi, "two": 0.1}
            units = dict(zip(weights, rng.multinomial(1000, list(weights.values())).tolist(), strict=True))
            state = test.advance(state, [UnitCell(weights=weights, units=units)])
            if test.log_e(state) >= math.log(20):
                false += 1
                break
    assert plausibly_at_most(false, runs, 0.05)


def test_a_canary_that_loses_a_twentieth_of_its_units_on_a_ramp_is_found() -> None:
    rng = np.random.default_rng(11)
    test = SrmTest(arms=("base", "canary"))
    found = 0
    for _ in range(30):
        state = test.start()
        for epoch in range(200):
            pi = RAMP[epoch * len(RAMP) // 200]
            lost = 0.95 * pi / (0.95 * pi + 1.0 - pi)
            in_canary = int(rng.binomial(1000, lost))
            units = {"base": 1000 - in_canary, "canary": in_canary}
            state = test.advance(state, [UnitCell(weights={"base": 1.0 - pi, "canary": pi}, units=units)])
        found += test.log_e(state) >= math.log(1000)
    assert found >= 29
