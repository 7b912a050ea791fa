import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.bandit.ope import (
    LoggedEpoch,
    LoggedRewards,
    PolicyValue,
    doubly_robust,
    ips,
    logged_epochs,
    logged_records,
    snips,
)
from anabranch.bandit.scales import BINARY, FloatArray, GridScale

ALPHA = 0.05


def drawn(
    rng: np.random.Generator, n: int, means: FloatArray, weights: FloatArray, target: FloatArray
) -> LoggedRewards:
    served = rng.choice(means.size, size=n, p=weights)
    rewards = (rng.random(n) < means[served]).astype(float)
    return logged_records(
        np.tile(target, (n, 1)),
        np.tile(weights, (n, 1)),
        served,
        rewards,
        predicted=np.tile(np.clip(means + 0.05, 0.0, 1.0), (n, 1)),
    )


def test_estimates_equal_the_closed_forms() -> None:
    target = np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])
    logged = np.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]])
    model = np.array([[0.3, 0.6], [0.3, 0.5], [0.2, 0.7]])
    log = logged_records(target, logged, [0, 1, 1], [1.0, 0.25, 0.5], predicted=model)
    w = [0.5 / 0.9, 0.8 / 0.5, 0.1 / 0.4]
    weighted = w[0] * 1.0 + w[1] * 0.25 + w[2] * 0.5
    assert ips(log, alpha=ALPHA).value == pytest.approx(weighted / 3, rel=1e-12)
    assert snips(log, alpha=ALPHA).value == pytest.approx(weighted / sum(w), rel=1e-12)
    expected = [0.5 * 0.3 + 0.5 * 0.6, 0.2 * 0.3 + 0.8 * 0.5, 0.9 * 0.2 + 0.1 * 0.7]
    robust = sum(
        (
            expected[0] + w[0] * (1.0 - 0.3),
            expected[1] + w[1] * (0.25 - 0.5),
            expected[2] + w[2] * (0.5 - 0.7),
        )
    )
    assert doubly_robust(log, alpha=ALPHA).value == pytest.approx(robust / 3, rel=1e-12)
    assert log.effective_count == pytest.approx(sum(w) ** 2 / sum(x * x for x in w))


@pytest.mark.parametrize("method", [ips, snips])
def test_the_logged_policy_itself_is_worth_the_mean_reward(
    method: Callable[..., PolicyValue],
) -> None:
    weights = np.array([0.7, 0.3])
    log = drawn(np.random.default_rng(1), 400, np.array([0.4, 0.8]), weights, weights)
    assert method(log, alpha=ALPHA).value == pytest.approx(float(log.rewards.mean()), rel=1e-12)


def test_a_perfect_model_leaves_nothing_to_weigh() -> None:
    target, logged = np.tile([0.5, 0.5], (50, 1)), np.tile([0.95, 0.05], (50, 1))
    served = np.arange(50) % 2
    model = np.tile([0.25, 0.75], (50, 1))
    log = logged_records(target, logged, served, model[np.arange(50), served], predicted=model)
    assert doubly_robust(log, alpha=ALPHA).value == pytest.approx(0.5, rel=1e-12)


def test_counts_per_epoch_say_what_single_records_say() -> None:
    weights = [{"base": 0.9, "a": 0.1}, {"base": 0.5, "a": 0.5}]
    target = {"base": 0.2, "a": 0.8}
    counts = [{"base": {0: 9, 1: 81}, "a": {1: 9, 0: 1}}, {"base": {0: 4, 1: 46}, "a": {0: 2, 1: 48}}]
    epochs = [LoggedEpoch(weights=row, counts=seen) for row, seen in zip(weights, counts, strict=True)]
    guess = {"base": 0.9, "a": 0.85}
    merged = logged_epochs(BINARY, epochs, target, predicted=guess)
    rows = [
        (row, arm, value)
        for row, seen in zip(weights, counts, strict=True)
        for arm, histogram in seen.items()
        for value, count in histogram.items()
        for _ in range(count)
    ]
    single = logged_records(
        [[target["base"], target["a"]]] * len(rows),
        [[row["base"], row["a"]] for row, _, _ in rows],
        [0 if arm == "base" else 1 for _, arm, _ in rows],
        [float(value) for _, _, value in rows],
        predicted=[[guess["base"], guess["a"]]] * len(rows),
    )
    for method in (ips, snips, doubly_robust):
        one, other = method(merged, alpha=ALPHA), method(single, alpha=ALPHA)
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-9)


def test_a_graded_metric_is_rescaled() -> None:
    epoch = LoggedEpoch(weights={"base": 0.5, "a": 0.5}, counts={"base": {2: 10}, "a": {4: 10}})
    log = logged_epochs(GridScale(low=0.0, high=5.0, bins=6), [epoch], {"base": 1.0, "a": 0.0})
    assert snips(log, alpha=ALPHA).value == pytest.approx(0.4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.05, 0.95),
    target=st.floats(0.0, 1.0),
    n=st.integers(1, 400),
)
def test_one_minus_the_reward_mirrors_value_and_interval(
    seed: int, share: float, target: float, n: int
) -> None:
    rng = np.random.default_rng(seed)
    log = drawn(rng, n, np.array([0.3, 0.9]), np.array([share, 1 - share]), np.array([target, 1 - target]))
    one, other = snips(log, alpha=ALPHA), snips(log.reflected(), alpha=ALPHA)
    assert (one.value is None) == (other.value is None)
    if one.value is not None and other.value is not None:
        assert one.value == pytest.approx(1.0 - other.value, abs=1e-9)
    for found, mirrored in ((one, other), (ips(log, alpha=ALPHA), ips(log.reflected(), alpha=ALPHA))):
        assert (found.low, found.high) == pytest.approx((1.0 - mirrored.high, 1.0 - mirrored.low), abs=1e-8)
        assert 0.0 <= found.low <= found.high <= 1.0


def width(value: PolicyValue) -> float:
    return value.high - value.low


def test_a_model_and_normalising_narrow_the_interval_of_a_far_target() -> None:
    rng = np.random.default_rng(3)
    log = drawn(rng, 20_000, np.array([0.9, 0.93]), np.array([0.9, 0.1]), np.array([0.0, 1.0]))
    assert width(snips(log, alpha=ALPHA)) < 0.5 * width(ips(log, alpha=ALPHA))
    assert width(doubly_robust(log, alpha=ALPHA)) < 0.5 * width(ips(log, alpha=ALPHA))


def test_a_hundred_million_requests_give_a_narrow_finite_interval() -> None:
    n = 50_000_000
    epoch = LoggedEpoch(
        weights={"base": 0.95, "a": 0.05},
        counts={"base": {0: n // 10, 1: n * 17 // 20}, "a": {0: n // 200, 1: n * 9 // 200}},
    )
    log = logged_epochs(BINARY, [epoch, epoch], {"a": 1.0}, predicted={"a": 0.9})
    for method in (ips, snips, doubly_robust):
        found = method(log, alpha=ALPHA)
        assert found.value == pytest.approx(0.9, abs=0.001)
        assert 0.89 < found.low < 0.9 < found.high < 0.91
        assert math.isfinite(found.low)


def test_without_data_every_value_is_possible() -> None:
    log = logged_epochs(BINARY, [], {"a": 1.0})
    for method in (ips, snips, doubly_robust):
        assert method(log, alpha=ALPHA) == PolicyValue(value=None, low=0.0, high=1.0)


def test_what_the_log_cannot_tell_is_refused() -> None:
    with pytest.raises(ValueError, match="propensity is 0"):
        logged_records([[0.5, 0.5]], [[1.0, 0.0]], [0], [1.0])
    with pytest.raises(ValueError, match="had no traffic"):
        logged_epochs(BINARY, [LoggedEpoch(weights={"base": 1.0}, counts={})], {"a": 1.0})
    with pytest.raises(ValueError, match="must lie in"):
        logged_records([[1.0]], [[1.0]], [0], [1.5])
    with pytest.raises(ValueError, match="sum to 1"):
        logged_epochs(BINARY, [], {"a": 0.7})
    with pytest.raises(ValueError, match="at most largest"):
        logged_records([[1.0, 0.0]], [[0.1, 0.9]], [0], [1.0], largest=2.0)
