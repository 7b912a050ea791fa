import math

import numpy as np
import pytest

from anabranch.bandit.bounds import contrast_rate
from anabranch.bandit.feasible_bounds import FeasibleArm, best_feasible_arm, best_feasible_shares


def arm(rate: float, faster: float = 0.0) -> FeasibleArm:
    """An arm whose latency is lower than the baseline's by a share."""
    return FeasibleArm(rate=rate, cost=math.log1p(-faster))


MIXED = [arm(0.95), arm(0.949, 0.26), arm(0.92, 0.50), arm(0.948, 0.18)]
BOTH_SOUND = [arm(0.95), arm(0.949, 0.26), arm(0.948, 0.50)]
NONE_SOUND = [arm(0.95), arm(0.92, 0.26), arm(0.90, 0.50)]


@pytest.mark.parametrize(
    ("arms", "margin", "leader", "requests"),
    [(MIXED, 0.01, 1, 15_406), (BOTH_SOUND, 0.02, 2, 3_598), (NONE_SOUND, 0.01, 0, 3_891)],
)
def test_three_instances_take_what_another_solver_found(
    arms: list[FeasibleArm], margin: float, leader: int, requests: int
) -> None:
    """The reference values are from a solver on a grid of baseline rates: good to a third of a per cent."""
    bound = best_feasible_shares(arms, margin=margin, spread=0.5)
    assert bound.leader == leader
    assert bound.time * math.log(20.0) == pytest.approx(requests, rel=4e-3)


def test_the_best_split_of_the_first_instance() -> None:
    bound = best_feasible_shares(MIXED, margin=0.01, spread=0.5)
    assert bound.shares.tolist() == pytest.approx([0.435, 0.486, 0.069, 0.010], abs=2e-3)


def cheapest_world(arms: list[FeasibleArm], margin: float, shares: list[float]) -> float:
    """By its definition, with the two-arm bound for the crossings: independent of the solver."""
    lead = best_feasible_arm(arms, margin=margin)

    def crossing(n: int) -> float:
        return contrast_rate(
            p_v=arms[n].rate, p_c=arms[0].rate, margin=margin, pi_v=shares[n], pi_c=shares[0]
        )

    worlds = [crossing(lead)] if lead else []
    for n, rival in enumerate(arms):
        if n == lead:
            continue
        gap = max(rival.cost - arms[lead].cost, 0.0)
        cost = shares[lead] * shares[n] / (shares[lead] + shares[n]) * gap**2 / (2.0 * 0.5**2)
        if n and rival.rate < arms[0].rate - margin:
            cost += crossing(n)
        worlds.append(cost)
    return min(worlds)


@pytest.mark.parametrize(("arms", "margin"), [(MIXED, 0.01), (BOTH_SOUND, 0.02), (NONE_SOUND, 0.01)])
def test_no_other_split_makes_the_cheapest_world_dearer(arms: list[FeasibleArm], margin: float) -> None:
    bound = best_feasible_shares(arms, margin=margin, spread=0.5)
    best = cheapest_world(arms, margin, bound.shares.tolist())
    assert best == pytest.approx(1.0 / bound.time, rel=1e-6)
    rng = np.random.default_rng(81)
    for scale in (1.0, 200.0):
        for shares in rng.dirichlet(scale * np.maximum(bound.shares, 0.02), size=100):
            assert cheapest_world(arms, margin, shares.tolist()) <= best * (1.0 + 1e-6)


def test_two_arms_of_equal_rate_need_what_the_best_two_arm_split_needs() -> None:
    """A much faster variant at the same rate: the guardrail alone decides how long it takes."""
    bound = best_feasible_shares([arm(0.95), arm(0.95, 0.6)], margin=0.02, spread=0.2)
    alone = max(
        contrast_rate(p_v=0.95, p_c=0.95, margin=0.02, pi_v=w, pi_c=1.0 - w)
        for w in np.linspace(0.3, 0.7, 401).tolist()
    )
    assert 1.0 / bound.time == pytest.approx(alone, rel=1e-5)


def test_arms_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="equal in what decides"):
        best_feasible_shares([arm(0.95), arm(0.95, 0.3), arm(0.95, 0.3)], margin=0.02, spread=0.5)
    with pytest.raises(ValueError, match="need two arms"):
        best_feasible_shares([arm(0.95)], margin=0.02, spread=0.5)
    with pytest.raises(ValueError, match="strictly between"):
        arm(1.0)
