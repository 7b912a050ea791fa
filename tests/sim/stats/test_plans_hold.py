"""What the planner says against what the closed loop does, in worlds that are as assumed."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from anabranch.bandit.information import Assumptions
from anabranch.bandit.planner import plan
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

ACCURACY = Metric(
    name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.02
)
ERRORS = Metric(name="errors", source="error", role=Role.GUARDRAIL, direction=Direction.MIN, maximum=0.02)
FIDELITY = Metric(name="fidelity", source="mirror.top1_agreement", role=Role.GUARDRAIL, minimum=0.95)
LATENCY = Metric(
    name="latency",
    source="latency_ms",
    role=Role.OBJECTIVE,
    statistic=Statistic.P95,
    direction=Direction.MIN,
)
SLO = Metric(
    name="slo",
    source="latency_ms",
    role=Role.GUARDRAIL,
    statistic=Statistic.P95,
    direction=Direction.MIN,
    maximum=33.0,
)
ANALYSIS = AnalysisStep(min_duration_s=0.0, max_duration_s=None)
PROMOTE = PromoteStep(weights=(1.0,), interval_s=1.0, bake_s=1.0)
MIRROR = MirrorStep(fraction=0.2, until_decided=("fidelity", "accuracy"), max_duration_s=200.0)
ASSUMED = Assumptions(
    requests_per_s=20.0,
    error_rate=0.005,
    accuracy=0.95,
    discordance=0.03,
    agreement=0.97,
    latency_spread=0.3,
    speedup=0.10,
    within_limit=float(special.ndtr(math.log(33.0 / 18.0) / 0.3)),
)
ARMS = {
    "base": Arm(median_ms=20.0, error_rate=0.005, accuracy=0.95),
    "a": Arm(median_ms=18.0, error_rate=0.005, accuracy=0.95, agreement=0.97),
}
RUNS = 40


@pytest.mark.parametrize(
    ("metric", "steps"),
    [
        (ACCURACY, (SetWeightStep(weight=0.5), ANALYSIS)),
        (ACCURACY, (SetWeightStep(weight=0.1), ANALYSIS)),
        (ERRORS, (SetWeightStep(weight=0.2), ANALYSIS)),
        (SLO, (SetWeightStep(weight=0.2), ANALYSIS)),
        (LATENCY, (SetWeightStep(weight=0.3), ANALYSIS, PROMOTE)),
        (ACCURACY, (replace(MIRROR, until_decided=("accuracy",)), ANALYSIS)),
        (FIDELITY, (replace(MIRROR, until_decided=("fidelity",)), ANALYSIS)),
    ],
    ids=["half", "tenth", "limit", "slo", "latency", "mirrored-accuracy", "fidelity"],
)
def test_half_and_nine_tenths_of_the_runs_decide_about_when_planned(
    metric: Metric, steps: tuple[Step, ...]
) -> None:
    experiment = Experiment(
        name="exp", model="m", baseline="base", candidates=("a",), metrics=(metric,), steps=steps
    )
    half, most = plan(experiment, ASSUMED).claims[0].after_s
    world = World(arms=lambda _: ARMS, requests_per_s=ASSUMED.requests_per_s)
    interval = half / 40.0
    found = []
    for seed in range(RUNS):
        for tick in run(
            experiment, world, np.random.default_rng([91, seed]), interval_s=interval, max_ticks=400
        ):
            verdict = tick.state.verdicts.get(f"{metric.name}/a")
            if verdict is not None and verdict.outcome is Outcome.PASS:
                found.append(verdict.decided_s or math.inf)
                break
        else:
            found.append(math.inf)
    measured_half, measured_most = np.quantile(found, [0.5, 0.9], method="higher").tolist()
    assert 0.7 < measured_half / half < 1.5
    assert 0.6 < measured_most / most < 1.4
