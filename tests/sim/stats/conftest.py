"""Exact bounds for what a simulation shows."""

from collections.abc import Callable

import pytest
from scipy import stats

AtMost = Callable[[int, int, float], bool]


@pytest.fixture(scope="session")
def plausibly_at_most() -> AtMost:
    """Whether `events` in `runs` are compatible with a probability of at most `limit`.

    By the one-sided 99 % Clopper-Pearson lower bound.
    """

    def check(events: int, runs: int, limit: float) -> bool:
        lower = 0.0 if events == 0 else float(stats.beta.ppf(0.01, events, runs - events + 1))
        return lower <= limit

    return check
