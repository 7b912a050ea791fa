"""V11 and B11: the fastest arm among those that keep their accuracy: the whole loop, from evidence to the decision.

Every run is an experiment in virtual time: ticks that fold, judge, allocate and decide. The lower bound is that of any
rule with the same error: the least information about the cheapest world in which another answer is right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from anabranch.bandit.feasible_bounds import FeasibleArm, best_feasible_shares
from anabranch.bandit.scales import FloatArray
from anabranch.bandit.simulate import Arm, World, run
from anabranch.bandit.spec import (
    Algorithm,
    BanditStep,
    Direction,
    Experiment,
    Metric,
    PromoteStep,
    Role,
    Statistic,
)
from anabranch.bandit.validation.checks import Cell, Check, Trial, mean_check, number_check, rate_check

ALPHA = 0.05
SIGMA = 0.5
TICKS_A_BOUND = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A baseline and candidates: accuracy and median latency in ms; the answer is None when none is feasible."""

    margin: float
    arms: dict[str, tuple[float, float]]
    answer: str | None


INSTANCES = {
    "one too inaccurate": Instance(
        margin=0.01,
        arms={"fp32": (0.95, 10.0), "fp16": (0.949, 7.4), "int8": (0.92, 5.0), "mixed": (0.948, 8.2)},
        answer="fp16",
    ),
    "all accurate": Instance(
        margin=0.02, arms={"fp32": (0.95, 10.0), "fp16": (0.949, 7.4), "int8": (0.948, 5.0)}, answer="int8"
    ),
    "none accurate": Instance(
        margin=0.01, arms={"fp32": (0.95, 10.0), "fp16": (0.91, 7.4), "int8": (0.90, 5.0)}, answer=None
    ),
}


def least_requests(name: str) -> float:
    """The lower bound on the mean number of requests of any rule with error ALPHA."""
    instance = INSTANCES[name]
    arms = [FeasibleArm(rate=rate, cost=math.log(median)) for rate, median in instance.arms.values()]
    bound = best_feasible_shares(arms, margin=instance.margin, spread=SIGMA)
    assert list(instance.arms)[bound.leader] == (instance.answer or next(iter(instance.arms)))
    return bound.time * math.log(1.0 / ALPHA)


def experiment_for(instance: Instance, algorithm: Algorithm) -> Experiment:
    """The experiment a person would write for the question: accuracy must hold, the median decides."""
    accuracy = Metric(
        name="accuracy",
        source="feedback.correct",
        role=Role.GUARDRAIL,
        non_inferiority_margin=instance.margin,
    )
    latency = Metric(
        name="latency",
        source="latency_ms",
        role=Role.OBJECTIVE,
        statistic=Statistic.P50,
        direction=Direction.MIN,
    )
    bandit = BanditStep(
        algorithm=algorithm,
        max_weight=0.6,
        min_prob=0.02,
        update_period_s=1.0,
        min_duration_s=0.0,
        max_duration_s=1e9,
    )
    baseline, *candidates = instance.arms
    return Experiment(
        name="feasible",
        model="m",
        baseline=baseline,
        candidates=tuple(candidates),
        metrics=(accuracy, latency),
        steps=(bandit, PromoteStep(weights=(1.0,), interval_s=1.0, bake_s=1.0)),
        delta=ALPHA,
    )


def decide(
    instance: Instance, algorithm: Algorithm, requests_a_tick: float, ticks: int, rng: np.random.Generator
) -> tuple[float, str | None]:
    """Requests until a winner is named or no candidate is left, and the winner; +inf when that does not come."""
    arms = {
        name: Arm(median_ms=median, sigma=SIGMA, accuracy=accuracy)
        for name, (accuracy, median) in instance.arms.items()
    }
    world = World(arms=lambda _: arms, requests_per_s=requests_a_tick)
    for number, result in enumerate(run(experiment_for(instance, algorithm), world, rng, max_ticks=ticks)):
        state = result.state
        if state.winner is not None or (number and not state.live):
            return sum(totals.requests for totals in state.totals.values()), state.winner
    return math.inf, None


def _whole(name: str, trial: Trial) -> tuple[Check, ...]:
    instance = INSTANCES[name]
    least = least_requests(name)
    ticks = 40 * TICKS_A_BOUND
    stops: dict[Algorithm, FloatArray] = {}
    wrong: dict[Algorithm, int] = {}
    for algorithm in (Algorithm.THOMPSON, Algorithm.UNIFORM):
        ends = [
            decide(instance, algorithm, least / TICKS_A_BOUND, ticks, trial.rng) for _ in range(trial.runs)
        ]
        stops[algorithm] = np.array([stop for stop, _ in ends])
        wrong[algorithm] = sum(winner not in (None, instance.answer) for _, winner in ends)
    own, uniform = stops[Algorithm.THOMPSON], stops[Algorithm.UNIFORM]
    rivals = {"uniform": float(uniform.mean() / least)}
    note = f"lower bound {least:,.0f} requests at error .05; ticks of {100 / TICKS_A_BOUND:g} % of it; removals have .01"
    return (
        rate_check(
            "V11",
            f"wrong winner, {name}",
            wrong[Algorithm.THOMPSON],
            trial.runs,
            ALPHA,
            rivals={"uniform": wrong[Algorithm.UNIFORM] / trial.runs},
        ),
        mean_check(
            "V11", f"mean decision over lower bound, {name}", own / least, 2.5, rivals=rivals, note=note
        ),
        mean_check("V11", f"mean decision over that of equal shares, {name}", own / uniform.mean(), 0.75),
        number_check(
            "V11",
            f"undecided at 40 lower bounds, {name}",
            float(np.isinf(own).sum()),
            0.0,
            runs=trial.runs,
        ),
    )


def _all_equal(trial: Trial) -> tuple[Check, ...]:
    """The whole loop on equal arms: a hundred ticks of 400 requests."""
    names = ("fp32", "fp16", "int8", "mixed", "static")
    instance = Instance(margin=0.02, arms=dict.fromkeys(names, (0.95, 10.0)), answer=None)
    ends = [decide(instance, Algorithm.THOMPSON, 400.0, 100, trial.rng) for _ in range(trial.runs)]
    wrong = sum(winner is not None for _, winner in ends)
    name = "any candidate promoted, four equal ones, the whole loop"
    return (rate_check("B11", name, wrong, trial.runs, ALPHA, note="expected: at most .05 for all together"),)


CELLS = (
    *(
        Cell(
            row="V11",
            name=name,
            run=partial(_whole, name),
            long=40,
            short=4 if name == "all accurate" else 0,
        )
        for name in INSTANCES
    ),
    Cell(row="B11", name="whole loop", run=_all_equal, long=20, short=0),
)
