"""B1 and B2: latencies without a variance, and rare stalls: no false decision, and the stalls are found."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from anabranch.bandit.evidence import Evidence
from anabranch.bandit.spec import Statistic
from anabranch.bandit.validation.checks import Cell, Check, Sense, Trial, rate_check
from anabranch.bandit.validation.judged import (
    BASELINE,
    CANDIDATE,
    decided,
    latency_objective,
    split_evidence,
    two_arm_experiment,
)
from anabranch.bandit.validation.latencies import LognormalMixture, Pareto, Shape, histogram
from anabranch.bandit.verdicts import Outcome

ALPHA = 0.05
TICKS, TICK = 30, 400
PARETO = Pareto(name="Pareto 1.5", index=1.5)
RARE_STALLS = LognormalMixture(
    name="stalls of 250 times in 0.2 %", parts=((0.998, 10.0, 0.3), (0.002, 2_500.0, 0.3))
)
STALLS = LognormalMixture(name="stalls of 250 times in 3 %", parts=((0.97, 10.0, 0.3), (0.03, 2_500.0, 0.3)))


def _ticks(candidate: Shape, baseline: Shape, rng: np.random.Generator) -> Iterator[Evidence]:
    weights = {BASELINE: 0.5, CANDIDATE: 0.5}
    for number in range(TICKS):
        served = int(rng.binomial(TICK, 0.5))
        outcomes = {
            BASELINE: {"latency_ms": histogram(baseline.sample(rng, TICK - served))},
            CANDIDATE: {"latency_ms": histogram(candidate.sample(rng, served))},
        }
        yield split_evidence(number + 1, weights, outcomes)


def _equal(row: str, shape: Shape, statistic: Statistic, trial: Trial) -> tuple[Check, ...]:
    experiment = two_arm_experiment(latency_objective(statistic))
    wrong = sum(
        decided(experiment, _ticks(shape, shape, trial.rng)) is not Outcome.INCONCLUSIVE
        for _ in range(trial.runs)
    )
    name = f"false decision on {statistic}, {shape.name}"
    return (rate_check(row, name, wrong, trial.runs, ALPHA, note="expected: at most .05"),)


def _stalling_candidate(trial: Trial) -> tuple[Check, ...]:
    experiment = two_arm_experiment(latency_objective(Statistic.P99))
    found = sum(
        decided(experiment, _ticks(STALLS, RARE_STALLS, trial.rng)) is Outcome.FAIL for _ in range(trial.runs)
    )
    name = f"candidate with {STALLS.name} fails on p99 in {TICKS * TICK:,} requests"
    return (
        rate_check("B2", name, found, trial.runs, 0.95, sense=Sense.AT_LEAST, note="expected: at least .95"),
    )


CELLS = (
    *(
        Cell(
            row=row,
            name=f"{shape.name} {statistic}",
            run=partial(_equal, row, shape, statistic),
            long=200,
            short=20 if statistic is Statistic.P95 else 0,
        )
        for row, shape in (("B1", PARETO), ("B2", RARE_STALLS))
        for statistic in (Statistic.P95, Statistic.P99)
    ),
    Cell(row="B2", name="stalling candidate", run=_stalling_candidate, long=100, short=10),
)
