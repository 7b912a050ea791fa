import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from anabranch.bandit import drift
from anabranch.bandit.drift import QUIET_LOG_E, DriftState

BEGUN = drift.advance(DriftState(), {0: 20, 1: 180})


def test_the_first_outcomes_only_set_the_borders() -> None:
    few = drift.advance(DriftState(), {0: 10, 1: 100})
    assert few.borders is None
    assert drift.log_e(few) == 0.0
    begun = drift.advance(few, {0: 10, 1: 90})
    assert begun.borders == (0,)
    assert begun.counts == (0, 0)


def test_latencies_are_sorted_by_their_first_median_and_tail() -> None:
    state = drift.advance(DriftState(), dict.fromkeys(range(300), 1))
    assert state.borders == (0, 149, 269, 296)


def test_outcomes_that_are_all_alike_are_quiet_until_others_come() -> None:
    state = drift.advance(DriftState(), {1: 400})
    assert state.borders == (0, 1)
    for _ in range(20):
        state = drift.advance(state, {1: 500})
    assert drift.log_e(state) < 0.0
    for _ in range(3):
        state = drift.advance(state, {0: 50, 1: 450})
    assert drift.log_e(state) > QUIET_LOG_E


def test_an_arm_is_not_called_quiet_before_it_was_watched() -> None:
    assert not drift.is_quiet(DriftState())
    assert not drift.is_quiet(BEGUN)
    assert drift.is_quiet(drift.advance(BEGUN, {0: 20, 1: 180}))


def test_the_forecast_of_one_segment_is_the_forecasters_own() -> None:
    state = drift.advance(BEGUN, {0: 3, 1: 17})
    # With no past both forecast Beta(1/2, 1/2).
    forecast = special.betaln(3.5, 17.5) - special.betaln(0.5, 0.5)
    best = 3 * math.log(0.15) + 17 * math.log(0.85)
    assert drift.log_e(state) == pytest.approx(forecast - best)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.02, 0.98), sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_under_any_fixed_share_the_mean_of_the_evidence_is_at_most_one(
    share: float, sizes: list[int]
) -> None:
    """Over all outcomes of the segments, exactly."""
    states = {BEGUN: 0.0}
    for size in sizes:
        following: dict[DriftState, float] = {}
        for state, log_p in states.items():
            for good in range(size + 1):
                after = drift.advance(state, {0: size - good, 1: good})
                log_c = math.log(math.comb(size, good))
                step = log_p + log_c + good * math.log(share) + (size - good) * math.log1p(-share)
                following[after] = float(np.logaddexp(following.get(after, -math.inf), step))
        states = following
    mean = sum(math.exp(log_p + drift.log_e(state)) for state, log_p in states.items())
    assert mean <= 1.0 + 1e-9


def test_an_arm_that_stands_still_is_quiet_and_one_that_moves_is_found() -> None:
    rng = np.random.default_rng(61)
    still, moving = BEGUN, BEGUN
    worst = -math.inf
    for tick in range(600):
        good = int(rng.binomial(100, 0.9))
        still = drift.advance(still, {0: 100 - good, 1: good})
        worst = max(worst, drift.log_e(still))
        good = int(rng.binomial(100, 0.9 if tick < 300 else 0.85))
        moving = drift.advance(moving, {0: 100 - good, 1: good})
    assert worst < QUIET_LOG_E
    assert drift.log_e(moving) > QUIET_LOG_E


def test_a_long_quiet_past_does_not_hide_a_later_change() -> None:
    state = BEGUN
    for _ in range(1_000):
        state = drift.advance(state, {0: 100, 1: 900})
    assert drift.log_e(state) < 0.0
    segments = 0
    while drift.log_e(state) < QUIET_LOG_E:
        state = drift.advance(state, {0: 130, 1: 870})
        segments += 1
    assert segments < 40


def test_a_hundred_million_outcomes_keep_the_state_small_and_finite() -> None:
    state = BEGUN
    for _ in range(100):
        state = drift.advance(state, {0: 100_000, 1: 900_000})
    assert math.isfinite(drift.log_e(state))
    assert len(state.counts) == 2
