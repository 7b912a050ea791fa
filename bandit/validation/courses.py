"""B5 and B6: whole experiments whose world changes under them: load that follows the weights, and late decay."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.simulate import Arm, World, run
from anabranch.bandit.spec import (
    AnalysisStep,
    Direction,
    Experiment,
    Metric,
    PromoteStep,
    Role,
    SetWeightStep,
    Statistic,
)
from anabranch.bandit.validation.checks import Cell, Check, Sense, Trial, rate_check

TICK_S = 60.0
HOUR_S = 3_600.0
REQUESTS_PER_S = 10.0

SLO = Metric(
    name="latency",
    source="latency_ms",
    role=Role.GUARDRAIL,
    statistic=Statistic.P95,
    direction=Direction.MIN,
    maximum=40.0,
)
RELATIVE = Metric(
    name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, non_inferiority_margin=0.05
)
ABSOLUTE = Metric(name="accuracy", source="feedback.correct", role=Role.GUARDRAIL, minimum=0.85)


def _experiment(
    metric: Metric, weights: tuple[float, ...], bake_s: float, *, hold_back: float = 0.0
) -> Experiment:
    return Experiment(
        name="validation",
        model="m",
        baseline="base",
        candidates=("candidate",),
        metrics=(metric,),
        steps=(
            SetWeightStep(weight=0.05),
            AnalysisStep(min_duration_s=600.0, max_duration_s=None),
            PromoteStep(weights=weights, interval_s=600.0, bake_s=bake_s, hold_back=hold_back),
        ),
    )


def _saved(experiment: Experiment, world: World, weights: dict[str, float], trial: Trial) -> bool:
    """Whether a run was promoting, and rolled back; `weights` follows the split, for worlds that depend on it."""
    phases = []
    for result in run(experiment, world, trial.rng, interval_s=TICK_S, max_ticks=360):
        weights.update(result.state.weights)
        phases.append(result.state.phase)
    return phases[-1] is Phase.ROLLED_BACK and Phase.PROMOTING in phases


def _overload(trial: Trial) -> tuple[Check, ...]:
    """The candidate's pool is too small: fast at 5 % of the traffic, over its limit with all of it."""
    rolled_back = 0
    for _ in range(trial.runs):
        weights: dict[str, float] = {}

        def arms(_now: float, weights: Mapping[str, float] = weights) -> Mapping[str, Arm]:
            load = weights.get("candidate", 0.0)
            return {
                "base": Arm(median_ms=20.0),
                "candidate": Arm(median_ms=10.0 / max(1.0 - 0.8 * load, 0.05)),
            }

        experiment = _experiment(SLO, (0.25, 0.5, 1.0), 1_800.0)
        rolled_back += _saved(experiment, World(arms=arms, requests_per_s=REQUESTS_PER_S), weights, trial)
    return (
        rate_check(
            "B5",
            "a pool that is too small for all traffic is rolled back while it is promoted",
            rolled_back,
            trial.runs,
            0.95,
            sense=Sense.AT_LEAST,
            note="expected: at least .95, by a limit that needs no baseline",
        ),
    )


def _decay(
    metric: Metric, weights: tuple[float, ...], hold_back: float, name: str, note: str, trial: Trial
) -> tuple[Check, ...]:
    """Accuracy .92 against .91 in the first hour, .75 afterwards; the bake lasts four hours."""
    rolled_back = 0
    for _ in range(trial.runs):

        def arms(now: float) -> Mapping[str, Arm]:
            accuracy = 0.92 if now < HOUR_S else 0.75
            return {
                "base": Arm(median_ms=10.0, accuracy=0.91),
                "candidate": Arm(median_ms=10.0, accuracy=accuracy),
            }

        experiment = _experiment(metric, weights, 4.0 * HOUR_S, hold_back=hold_back)
        rolled_back += _saved(experiment, World(arms=arms, requests_per_s=REQUESTS_PER_S), {}, trial)
    return (
        rate_check(
            "B6",
            f"a candidate that decays after an hour is rolled back, {name}",
            rolled_back,
            trial.runs,
            0.95,
            sense=Sense.AT_LEAST,
            note=note,
        ),
    )


CELLS = (
    Cell(row="B5", name="overload", run=_overload, long=20, short=5),
    Cell(
        row="B6",
        name="limit",
        run=partial(
            _decay, ABSOLUTE, (0.5, 1.0), 0.0, "accuracy limit, all traffic", "expected: at least .95"
        ),
        long=20,
        short=5,
    ),
    Cell(
        row="B6",
        name="margin, half",
        run=partial(
            _decay,
            RELATIVE,
            (0.5,),
            0.0,
            "margin to the baseline, half of the traffic",
            "expected: at least .95",
        ),
        long=20,
        short=0,
    ),
    Cell(
        row="B6",
        name="margin, all",
        run=partial(
            _decay,
            RELATIVE,
            (0.5, 1.0),
            0.0,
            "margin to the baseline, all traffic",
            "a comparison needs traffic on both arms while the candidate bakes",
        ),
        long=20,
        short=0,
    ),
    Cell(
        row="B6",
        name="margin, held back",
        run=partial(
            _decay,
            RELATIVE,
            (0.5, 1.0),
            0.05,
            "margin to the baseline, which keeps 5 %",
            "expected: at least .95",
        ),
        long=20,
        short=5,
    ),
)
