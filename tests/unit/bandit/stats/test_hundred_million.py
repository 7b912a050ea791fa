"""At a hundred million outcomes nothing underflows, overflows or turns into no number, whatever the counts."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.bandit import drift
from anabranch.bandit.betting import Claim, ContrastTest, EpochCell, MeanTest, Side
from anabranch.bandit.counts import CountContrast
from anabranch.bandit.drift import DriftState
from anabranch.bandit.paired import PairedTest
from anabranch.bandit.quantiles import QuantileRatioTest, RatioClaim, quantile_interval
from anabranch.bandit.scales import BINARY, LATENCY_SCALE
from anabranch.bandit.sequences import contrast_interval, mean_interval, proportion_interval
from anabranch.bandit.srm import SrmTest, UnitCell

N = 100_000_000
share = st.one_of(st.sampled_from([0.0, 1e-8, 0.5, 1.0 - 1e-8, 1.0]), st.floats(0.0, 1.0))
claims = st.sampled_from(list(Claim))


def binary(good: float, n: int = N) -> dict[int, int]:
    right = round(good * n)
    return {0: n - right, 1: right}


@settings(max_examples=60, deadline=None)
@given(claim=claims, good_v=share, good_c=share, pi=st.sampled_from([0.001, 0.05, 0.5]))
def test_the_split(claim: Claim, good_v: float, good_c: float, pi: float) -> None:
    test = ContrastTest(claim=claim, margin=0.0 if claim is Claim.SUPERIORITY else 0.01)
    state = test.start()
    for _ in range(3):
        cell = EpochCell(
            pi_v=pi, pi_c=1.0 - pi, counts_v=binary(good_v, round(pi * N)), counts_c=binary(good_c)
        )
        state = test.advance(state, [cell])
    assert math.isfinite(test.log_e(state))
    low, high = contrast_interval(test, state, alpha=0.001, least_weight=pi)
    estimate = test.estimate(state)
    assert estimate is not None
    assert -1.0 <= low <= high <= 1.0
    counts = CountContrast(claim=claim, margin=test.margin)
    assert math.isfinite(counts.log_e(binary(good_v), binary(good_c)))


@settings(max_examples=40, deadline=None)
@given(claim=claims, lost=share, won=share, side=st.sampled_from(list(Side)))
def test_pairs_and_limits(claim: Claim, lost: float, won: float, side: Side) -> None:
    paired = PairedTest(claim=claim, margin=0.0 if claim is Claim.SUPERIORITY else 0.01)
    limited = MeanTest(side=side, threshold=0.99)
    pairs, values = paired.start(), limited.start()
    for _ in range(3):
        pairs = paired.advance(pairs, {0: round(lost * N), 1: N, 2: round(won * N)})
        values = limited.advance(values, binary(won))
    assert math.isfinite(paired.log_e(pairs))
    assert math.isfinite(limited.log_e(values))
    low, high = mean_interval(BINARY, binary(won), alpha=1e-4)
    assert 0.0 <= low <= round(won * N) / N <= high <= 1.0
    low, high = proportion_interval(round(won * N), N, alpha=1e-4)
    assert 0.0 <= low <= round(won * N) / N <= high <= 1.0


@settings(max_examples=30, deadline=None)
@given(
    fast=st.integers(0, LATENCY_SCALE.bins - 1),
    slow=st.integers(0, LATENCY_SCALE.bins - 1),
    mixed=share,
    tau=st.sampled_from([0.5, 0.99]),
    claim=st.sampled_from(list(RatioClaim)),
)
def test_quantiles(fast: int, slow: int, mixed: float, tau: float, claim: RatioClaim) -> None:
    counts = {fast: 1 + round(mixed * N), slow: N}
    test = QuantileRatioTest(claim=claim, tau=tau, ratio=1.05)
    state = test.advance(test.start(), counts, {slow: N, fast: N})
    assert math.isfinite(test.log_e(state))
    low, high = quantile_interval(LATENCY_SCALE, counts, tau, alpha=1e-4)
    assert low <= high


@settings(max_examples=40, deadline=None)
@given(good=share, later=share, weight=st.floats(0.001, 0.999), inside=share)
def test_drift_and_sample_ratio(good: float, later: float, weight: float, inside: float) -> None:
    state = drift.advance(DriftState(), binary(good, 1_000))
    for part in (good, good, later):
        state = drift.advance(state, binary(part))
    assert math.isfinite(drift.log_e(state))
    ratio = SrmTest(arms=("base", "a"))
    units = {"a": round(inside * N), "base": N - round(inside * N)}
    cell = UnitCell(weights={"a": weight, "base": 1.0 - weight}, units=units)
    assert math.isfinite(ratio.log_e(ratio.advance(ratio.start(), [cell])))
