import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.bandit.betting import Claim, ContrastTest, EpochCell
from anabranch.bandit.labels import (
    Arrivals,
    Cohort,
    arrival_interval,
    closed,
    closed_segment,
    filled,
    label_sampled,
)
from anabranch.bandit.scales import BINARY, GridScale

WEIGHTS = {1: {"base": 0.6, "a": 0.3, "b": 0.1}, 2: {"base": 1.0}}
NON_INFERIORITY = ContrastTest(claim=Claim.NON_INFERIORITY, margin=0.02)
HARM = ContrastTest(claim=Claim.HARM, margin=0.02)


def cohort(
    variant: str, requests: int, good: int, bad: int, *, entered: float = 0.0, epoch: int = 1
) -> Cohort:
    return Cohort(
        epoch=epoch, variant=variant, entered_s=entered, requests=requests, labels={0: bad, 1: good}
    )


def test_only_cohorts_whose_window_is_over_enter_in_the_order_of_entry() -> None:
    cohorts = [cohort("a", 5, 5, 0, entered=t) for t in (50.0, 10.0, 41.0, 40.0)]
    assert [c.entered_s for c in closed(cohorts, now=100.0, window_s=60.0)] == [10.0, 40.0]


def test_unknown_labels_become_the_end_of_the_scale() -> None:
    one = cohort("a", 10, 6, 1)
    assert one.unknown == 3
    assert filled(BINARY, one, with_best=False) == {0: 4, 1: 6}
    assert filled(BINARY, one, with_best=True) == {0: 1, 1: 9}
    graded = Cohort(epoch=1, variant="a", entered_s=0.0, requests=4, labels={3: 1})
    assert filled(GridScale(low=0.0, high=5.0, bins=6), graded, with_best=True) == {3: 1, 5: 3}


def test_a_claim_is_tested_against_the_worst_that_unknown_labels_can_mean() -> None:
    cohorts = [cohort("base", 60, 50, 4), cohort("a", 30, 25, 2), cohort("b", 10, 1, 0)]
    (cell,) = closed_segment(
        BINARY, cohorts, WEIGHTS, variant="a", baseline="base", claim=Claim.NON_INFERIORITY
    )
    assert (cell.pi_v, cell.pi_c, cell.others) == (0.3, 0.6, 10)
    assert (cell.counts_v, cell.counts_c) == ({0: 5, 1: 25}, {0: 4, 1: 56})
    (cell,) = closed_segment(BINARY, cohorts, WEIGHTS, variant="a", baseline="base", claim=Claim.HARM)
    assert (cell.counts_v, cell.counts_c) == ({0: 2, 1: 28}, {0: 10, 1: 50})


def test_an_epoch_without_the_variant_says_nothing() -> None:
    alone = [cohort("base", 60, 50, 4, epoch=2)]
    assert closed_segment(BINARY, alone, WEIGHTS, variant="a", baseline="base", claim=Claim.HARM) == []


@given(
    requests=st.tuples(st.integers(0, 80), st.integers(0, 80)),
    shares=st.tuples(*[st.floats(0.0, 1.0)] * 4),
    claim=st.sampled_from([NON_INFERIORITY, HARM]),
)
def test_evidence_with_bounded_unknowns_is_at_most_the_evidence_of_any_true_labels(
    requests: tuple[int, int], shares: tuple[float, float, float, float], claim: ContrastTest
) -> None:
    """The first segment's bets are fixed, so evidence is monotone in the labels."""
    truth, seen = [], []
    for arm, n, good, known in zip(("a", "base"), requests, shares[:2], shares[2:], strict=True):
        right = round(good * n)
        truth.append(cohort(arm, n, right, n - right))
        kept = (round(known * right), round(known * (n - right)))
        seen.append(cohort(arm, n, *kept))

    def evidence(cohorts: list[Cohort]) -> float:
        segment = closed_segment(BINARY, cohorts, WEIGHTS, variant="a", baseline="base", claim=claim.claim)
        return claim.log_e(claim.advance(claim.start(), segment))

    assert evidence(seen) <= evidence(truth) + 1e-9


def test_a_sampled_label_has_the_joint_propensity() -> None:
    cell = EpochCell(pi_v=0.2, pi_c=0.8, counts_v={1: 8}, counts_c={1: 4}, others=0)
    sampled = label_sampled(cell, rho_v=0.5, rho_c=0.1, unlabelled=40)
    assert (sampled.pi_v, sampled.pi_c, sampled.others) == pytest.approx((0.1, 0.08, 40))


def test_label_sampling_of_different_bias_keeps_the_estimate_unbiased() -> None:
    # 10,000 requests at 20/80 whose counts are exactly the expected ones.
    cell = EpochCell(
        pi_v=0.2,
        pi_c=0.8,
        counts_v={0: 100, 1: 900},
        counts_c={0: 20, 1: 380},
        others=0,
    )
    state = NON_INFERIORITY.advance(
        NON_INFERIORITY.start(), [label_sampled(cell, rho_v=0.5, rho_c=0.05, unlabelled=8_600)]
    )
    assert NON_INFERIORITY.estimate(state) == pytest.approx(0.90 - 0.95, abs=1e-9)


def test_arrivals_are_weighted_by_their_propensity() -> None:
    arrived = Arrivals().plus(BINARY, {0: 7, 1: 3}, propensity=0.1).plus(BINARY, {1: 2}, propensity=0.5)
    assert arrived.total == pytest.approx(3 / 0.1 + 2 / 0.5)
    assert arrived.clock == pytest.approx(0.9 * 3 / 0.01 + 0.5 * 2 / 0.25)


def test_the_arrival_interval_is_the_sum_of_both_boundaries_around_the_difference() -> None:
    variant, baseline = Arrivals(total=400.0, clock=2_000.0), Arrivals(total=300.0, clock=50.0)
    low, high = arrival_interval(variant, baseline, requests=1_000, alpha=0.05, prior=0.1)
    radius = sum(
        math.sqrt((v * 0.01 + 1.0) / 0.01 * math.log((v * 0.01 + 1.0) / 0.025**2)) for v in (2_000.0, 50.0)
    )
    assert (low, high) == pytest.approx(((100.0 - radius) / 1_000, (100.0 + radius) / 1_000))


def test_impossible_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="labels for 3 requests"):
        cohort("a", 3, 3, 1)
    with pytest.raises(ValueError, match="label sampling"):
        label_sampled(
            EpochCell(pi_v=0.2, pi_c=0.8, counts_v={}, counts_c={}), rho_v=0.0, rho_c=1.0, unlabelled=0
        )
    with pytest.raises(ValueError, match="requests given"):
        arrival_interval(Arrivals(), Arrivals(), requests=0, alpha=0.05)
    with pytest.raises(ValueError, match="propensity"):
        Arrivals().plus(BINARY, {1: 1}, propensity=0.0)
