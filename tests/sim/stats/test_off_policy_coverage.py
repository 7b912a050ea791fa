"""Intervals of off-policy estimates cover the target's value at all looks, while the logging weights change."""

from collections.abc import Callable

import numpy as np
import pytest

from anabranch.bandit.ope import LoggedEpoch, PolicyValue, doubly_robust, ips, logged_epochs, snips
from anabranch.bandit.scales import BINARY

AtMost = Callable[[int, int, float], bool]
RUNS, LOOKS, SIZE = 300, 12, 150
MEANS = {"base": 0.93, "a": 0.90, "b": 0.6}
TARGET = {"base": 0.1, "a": 0.8, "b": 0.1}
TRUTH = sum(TARGET[arm] * mean for arm, mean in MEANS.items())
RAMP = [
    {"base": 0.9, "a": 0.05, "b": 0.05},
    {"base": 0.6, "a": 0.2, "b": 0.2},
    {"base": 0.2, "a": 0.7, "b": 0.1},
]


def epoch(weights: dict[str, float], rng: np.random.Generator) -> LoggedEpoch:
    served = dict(zip(weights, rng.multinomial(SIZE, list(weights.values())).tolist(), strict=True))
    good = {arm: int(rng.binomial(count, MEANS[arm])) for arm, count in served.items()}
    return LoggedEpoch(
        weights=weights, counts={arm: {0: served[arm] - good[arm], 1: good[arm]} for arm in weights}
    )


@pytest.mark.parametrize("method", [ips, snips, doubly_robust])
def test_the_targets_value_is_covered_at_every_look(
    method: Callable[..., PolicyValue], plausibly_at_most: AtMost
) -> None:
    rng = np.random.default_rng(41)
    missed, errors = 0, []
    for _ in range(RUNS):
        epochs: list[LoggedEpoch] = []
        outside = False
        found = PolicyValue(value=None, low=0.0, high=1.0)
        for look in range(LOOKS):
            epochs.append(epoch(RAMP[look * len(RAMP) // LOOKS], rng))
            # A bound of the ratios must not depend on how long the run got: the smallest weights are known.
            log = logged_epochs(BINARY, epochs, TARGET, predicted={"base": 0.9, "a": 0.9, "b": 0.7})
            found = method(log, alpha=0.1)
            outside |= not found.low <= TRUTH <= found.high
        missed += outside
        assert found.value is not None
        errors.append(found.value - TRUTH)
    assert plausibly_at_most(missed, RUNS, 0.1)
    assert abs(float(np.mean(errors))) < 4.0 * float(np.std(errors)) / RUNS**0.5 + 0.001
