"""Policies over recorded logs of worlds that are known: what is estimated is what is true."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from anabranch.bandit import simulate
from anabranch.bandit.counterfactual import LOGGED, default_reward, replay
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.simulate import Arm, World
from anabranch.bandit.spec import (
    Algorithm,
    BanditStep,
    Direction,
    Experiment,
    Metric,
    Role,
    SetWeightStep,
    Statistic,
)
from anabranch.bandit.step import Tick, tick

ARMS: Mapping[str, Arm] = {
    "base": Arm(median_ms=10.0, accuracy=0.70),
    "a": Arm(median_ms=8.0, accuracy=0.80),
    "b": Arm(median_ms=12.0, accuracy=0.60),
}
ACCURACY = Metric(name="accuracy", source="feedback.correct", role=Role.OBJECTIVE)
LATENCY = Metric(
    name="latency", source="latency_ms", role=Role.SIGNAL, statistic=Statistic.P50, direction=Direction.MIN
)
EXPERIMENT = Experiment(
    name="exp",
    model="m",
    baseline="base",
    candidates=("a", "b"),
    metrics=(ACCURACY, LATENCY),
    steps=(
        SetWeightStep(weight=0.3),
        BanditStep(
            algorithm=Algorithm.UNIFORM,
            max_weight=0.5,
            min_prob=0.1,
            update_period_s=5.0,
            min_duration_s=60.0,
            max_duration_s=60.0,
            tolerance=0.0,
        ),
    ),
)


@pytest.fixture(scope="module")
def log() -> list[Evidence]:
    kept: list[Evidence] = []

    def noted(*arguments: object) -> Tick:
        evidence = arguments[2]
        assert isinstance(evidence, Evidence)
        if not evidence.is_empty:
            kept.append(evidence)
        return tick(*arguments)  # type: ignore[arg-type]  # handed on as they come

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "tick", noted)
        world = World(arms=lambda _: ARMS, requests_per_s=200.0)
        for _ in simulate.run(EXPERIMENT, world, np.random.default_rng(7), max_ticks=61):
            pass
    assert len(kept) > 50
    return kept


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_that_gets_everything_earns_what_it_is_worth(log: list[Evidence], arm: str) -> None:
    found = replay(EXPERIMENT, log, arm, default_reward(EXPERIMENT, log, ACCURACY))
    assert found.weights == {name: float(name == arm) for name in ARMS}
    for name, estimate in found.estimates.items():
        assert estimate.low <= ARMS[arm].accuracy <= estimate.high, name
        assert estimate.high - estimate.low < 0.3, name
    assert found.effective < found.requests


def test_the_logged_weights_earn_exactly_what_was_earned(log: list[Evidence]) -> None:
    right = sum(cell.metrics["feedback.correct"].get(1, 0) for part in log for cell in part.cells)
    total = sum(sum(cell.metrics["feedback.correct"].values()) for part in log for cell in part.cells)
    found = replay(EXPERIMENT, log, LOGGED, default_reward(EXPERIMENT, log, ACCURACY))
    assert found.estimates["ips"].value == pytest.approx(right / total)
    assert (found.requests, found.left_out) == (total, 0)
    assert found.effective == pytest.approx(total)


def test_a_policy_that_learns_would_have_earned_more_than_the_baseline(log: list[Evidence]) -> None:
    reward = default_reward(EXPERIMENT, log, ACCURACY)
    thompson = replay(EXPERIMENT, log, "thompson", reward)
    assert thompson.weights["a"] > thompson.weights.get("b", 0.0)
    found = thompson.estimates["dr"]
    assert found.value is not None
    assert found.low > ARMS["base"].accuracy
    assert thompson.weights["base"] == pytest.approx(1.0 - thompson.weights["a"])


def test_a_latency_is_earned_by_requests_within_what_the_baseline_kept(log: list[Evidence]) -> None:
    reward = default_reward(EXPERIMENT, log, LATENCY)
    assert reward.within_ms == pytest.approx(10.0, rel=0.05)
    base = replay(EXPERIMENT, log, "base", reward).estimates["snips"].value
    fast = replay(EXPERIMENT, log, "a", reward).estimates["snips"].value
    assert base == pytest.approx(0.5, abs=0.05)
    assert fast is not None
    assert fast > 0.7


def test_what_the_log_does_not_know_is_left_out_and_said(log: list[Evidence]) -> None:
    hidden = [
        replace(
            part,
            cells=tuple(cell for cell in part.cells if cell.variant != "b"),
            weights={number: {"base": 0.7, "a": 0.3, "b": 0.0} for number in part.weights},
        )
        for part in log
    ]
    found = replay(EXPERIMENT, hidden, "b", default_reward(EXPERIMENT, hidden, ACCURACY))
    assert (found.requests, found.estimates["ips"].value) == (0, None)
    assert found.left_out > 1000


def test_an_unknown_policy_names_the_known_ones(log: list[Evidence]) -> None:
    with pytest.raises(ValueError, match=r"no policy 'epsilon'; there are: logged, thompson"):
        replay(EXPERIMENT, log, "epsilon", default_reward(EXPERIMENT, log, ACCURACY))
