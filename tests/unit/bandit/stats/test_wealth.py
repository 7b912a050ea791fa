import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from anabranch.bandit import wealth
from anabranch.bandit.moments import NO_MOMENTS, ArmMoments


@given(
    gains=st.lists(st.floats(-1.0, 3.0), min_size=2, max_size=5),
    weights=st.lists(st.floats(0.01, 1.0), min_size=5, max_size=5),
)
def test_the_growth_optimal_stake_maximises_expected_log_wealth_on_the_safe_range(
    gains: list[float], weights: list[float]
) -> None:
    total = sum(weights[: len(gains)])
    outcomes = [(gain, weight / total) for gain, weight in zip(gains, weights, strict=False)]
    stake = wealth.growth_optimal(outcomes, 1.0)
    low, high = wealth.MAX_LOSS * wealth.FRACTIONS[-1], wealth.MAX_PLANNED_LOSS

    def loss(candidate: float) -> float:
        return -sum(p * math.log1p(candidate * gain) for gain, p in outcomes)

    best = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9})
    assert low <= stake <= high
    assert loss(stake) <= min(best.fun, loss(low), loss(high)) + 1e-9


def test_no_stake_can_ruin_a_gambler() -> None:
    bets = wealth.stakes(1e9, 20.0)
    assert len(bets) == wealth.GAMBLERS
    growth = wealth.log_growth(bets, np.array([-20.0]), np.array([1.0]))
    assert np.isfinite(growth).all()
    assert growth.min() == pytest.approx(math.log1p(-wealth.MAX_PLANNED_LOSS))


def test_the_capital_of_all_gamblers_is_one() -> None:
    for share in (0.01, 0.65, 0.99):
        assert np.exp(wealth.log_capital(share)).sum() == pytest.approx(1.0)
        assert wealth.log_mixture(wealth.log_capital(share), wealth.START) == pytest.approx(0.0, abs=1e-12)


def test_the_mixture_neither_overflows_nor_underflows() -> None:
    capital = wealth.log_capital(0.5)
    assert wealth.log_mixture(capital, (5000.0, *([-5000.0] * 10))) == pytest.approx(5000.0 + math.log(0.5))
    assert wealth.log_mixture(capital, (-5000.0,) * 11) == pytest.approx(-5000.0)


@given(mean=st.floats(0.01, 0.99), spread=st.floats(0.001, 1.0))
def test_a_two_point_plan_has_the_asked_mean_and_variance_inside_the_range(
    mean: float, spread: float
) -> None:
    points = wealth.two_point(mean, spread)
    found = sum(value * p for value, p in points)
    variance = sum((value - found) ** 2 * p for value, p in points)
    assert found == pytest.approx(mean)
    assert variance == pytest.approx(spread * mean * (1.0 - mean))
    assert all(-1e-12 <= value <= 1.0 + 1e-12 for value, _ in points)


def test_moments_add_up_and_spread_compares_with_a_binary_metric() -> None:
    binary = NO_MOMENTS.plus(np.array([0.0, 1.0]), np.array([300.0, 700.0]))
    assert binary == ArmMoments(count=1000, total=700.0, squares=700.0)
    assert binary.spread == pytest.approx(1.0)
    narrow = NO_MOMENTS.plus(np.array([0.45, 0.55]), np.array([500.0, 500.0]))
    assert narrow.spread == pytest.approx(0.01, abs=0.003)
    assert binary.joined(narrow).count == 2000
    assert NO_MOMENTS.spread == NO_MOMENTS.plus(np.array([1.0]), np.array([9.0])).spread == 1.0
