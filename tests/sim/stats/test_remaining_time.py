"""What a running experiment expects of its open claims, beside when they really pass."""

import math
from dataclasses import replace

import numpy as np
import pytest

from anabranch.bandit.remaining import remaining
from anabranch.bandit.simulate import Arm, World, run
from anabranch.bandit.spec import (
    AnalysisStep,
    Direction,
    Experiment,
    Metric,
    MirrorStep,
    PromoteStep,
    Role,
    SetWeightStep,
    Statistic,
    Step,
)
from anabranch.bandit.verdicts import Outcome

ANALYSIS = AnalysisStep(min_duration_s=0.0, max_duration_s=None)
ACCURACY = Metric(
    name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.03
)
ERRORS = Metric(name="errors", source="error", role=Role.GUARDRAIL, direction=Direction.MIN, maximum=0.02)
LATENCY = Metric(
    name="latency",
    source="latency_ms",
    role=Role.OBJECTIVE,
    statistic=Statistic.P95,
    direction=Direction.MIN,
)
MIRROR = MirrorStep(fraction=0.3, until_decided=("accuracy",), max_duration_s=1e6)
ARMS = {
    "base": Arm(median_ms=20.0, error_rate=0.005, accuracy=0.9),
    "a": Arm(median_ms=17.0, error_rate=0.005, accuracy=0.9, agreement=0.95),
}
RUNS = 30


@pytest.mark.parametrize(
    ("metric", "steps", "interval_s"),
    [
        (ACCURACY, (SetWeightStep(weight=0.4), ANALYSIS), 1.0),
        (ERRORS, (SetWeightStep(weight=0.2), ANALYSIS), 1.0),
        (
            LATENCY,
            (SetWeightStep(weight=0.3), ANALYSIS, PromoteStep(weights=(1.0,), interval_s=1, bake_s=1)),
            1.0,
        ),
        (ACCURACY, (MIRROR, ANALYSIS), 1.0),
    ],
    ids=["split", "limit", "latency", "mirror"],
)
def test_half_way_to_a_verdict_the_rest_is_expected_about_right(
    metric: Metric, steps: tuple[Step, ...], interval_s: float
) -> None:
    experiment = Experiment(
        name="exp", model="m", baseline="base", candidates=("a",), metrics=(metric,), steps=steps
    )
    world = World(arms=lambda _: ARMS, requests_per_s=100.0)
    key, ratios, within = f"{metric.name}/a", [], []
    for seed in range(RUNS):
        expected: tuple[float, ...] | None = None
        asked_s = 0.0
        for number, tick in enumerate(
            run(experiment, world, np.random.default_rng([17, seed]), interval_s=interval_s, max_ticks=2_000)
        ):
            verdict = tick.state.verdicts.get(key)
            if verdict is None:
                continue
            if verdict.outcome is Outcome.PASS:
                break
            if expected is None and verdict.log_e_pass > 0.4 * verdict.log_need_pass:
                expected = remaining(experiment, tick.state, 100.0)[key].after_s
                asked_s = number * interval_s
        if expected is not None and verdict is not None and verdict.decided_s is not None:
            took_s = max(verdict.decided_s - asked_s, interval_s)
            ratios.append(took_s / expected[0])
            within.append(took_s <= max(expected[1], interval_s))
    assert len(ratios) > RUNS // 2
    assert 0.4 < float(np.median(ratios)) < 2.5
    assert sum(within) / len(within) > 0.6


def test_a_candidate_that_looks_worse_than_the_margin_is_not_expected_to_pass() -> None:
    bad = {**ARMS, "a": replace(ARMS["a"], accuracy=0.8)}
    experiment = Experiment(
        name="exp",
        model="m",
        baseline="base",
        candidates=("a",),
        metrics=(ACCURACY,),
        steps=(SetWeightStep(weight=0.4), ANALYSIS),
    )
    world = World(arms=lambda _: bad, requests_per_s=100.0)
    for tick in run(experiment, world, np.random.default_rng(3), max_ticks=8):
        state = tick.state
    assert remaining(experiment, state, 100.0)["accuracy/a"].after_s == (math.inf, math.inf)
    assert remaining(experiment, state, 0.0) == {}
