"""From an experiment's state to the next epoch's weights: the bridge to the allocation policies."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from anabranch.bandit.fold import (
    higher_differences,
    higher_is_better,
    is_limited,
    limit_threshold,
    limited_values,
)
from anabranch.bandit.measures import BINARY_SCALE, DIFFERENCE_SCALE, scale_of
from anabranch.bandit.policies.registry import allocate
from anabranch.bandit.recent import recent_totals
from anabranch.bandit.scales import BoundedScale, Histogram, LogScale, total_of
from anabranch.bandit.spec import BanditStep, Experiment, Metric
from anabranch.bandit.state import ExperimentState, Totals
from anabranch.bandit.thompson import (
    AllocationProblem,
    ArmOutcomes,
    Constraint,
    Objective,
    Rate,
    probability_best,
)
from anabranch.bandit.weights import DEFAULT_LIMITS, Limits


def next_weights(experiment: Experiment, state: ExperimentState, step: BanditStep) -> dict[str, float]:
    """The live candidates' shares of the next epoch.

    The draws' seed is the experiment's name and the epoch's number, so that anyone can draw them again.
    """
    problem = allocation_problem(experiment, state, step)
    weights = allocate(problem, _rng(experiment, state), algorithm=step.algorithm)
    return {candidate: weights[candidate] for candidate in state.live}


def who_is_best(experiment: Experiment, state: ExperimentState) -> dict[str, float]:
    """For display: the posterior probability of every arm that it is the best feasible one."""
    problem = allocation_problem(experiment, state, None)
    return probability_best(problem, _rng(experiment, state))


def allocation_problem(
    experiment: Experiment, state: ExperimentState, step: BanditStep | None
) -> AllocationProblem:
    """What the policies may look at."""
    metric = experiment.objective
    assert metric is not None, "a bandit step without an objective is refused with the document"
    limits = DEFAULT_LIMITS
    if step is not None:
        limits = Limits(min_prob=step.min_prob, max_weight=step.max_weight)
    live = [state.weights.get(candidate, 0.0) for candidate in state.live]
    return AllocationProblem(
        baseline=_outcomes(experiment, state, metric, experiment.baseline),
        candidates=tuple(_outcomes(experiment, state, metric, name) for name in state.live),
        objective=Objective(
            scale=scale_of(metric), tau=metric.statistic.quantile, direction=metric.direction
        ),
        constraints=tuple(_constraint(guardrail) for guardrail in experiment.guardrails),
        limits=limits,
        previous=dict(state.weights) if all(share > 0.0 for share in live) else {},
    )


def _rng(experiment: Experiment, state: ExperimentState) -> np.random.Generator:
    identity = f"{experiment.name}/{state.epoch}".encode()
    return np.random.default_rng(int.from_bytes(blake2b(identity, digest_size=16).digest(), "big"))


def _constraint(metric: Metric) -> Constraint:
    if is_limited(metric):
        low, width = (0.0, 1.0) if metric.is_long_tailed else (metric.low, metric.high - metric.low)
        return Constraint(name=metric.name, minimum=(limit_threshold(metric) - low) / width)
    assert metric.non_inferiority_margin is not None
    return Constraint(name=metric.name, margin=metric.non_inferiority_margin / (metric.high - metric.low))


def _outcomes(experiment: Experiment, state: ExperimentState, objective: Metric, arm: str) -> ArmOutcomes:
    totals = recent_totals(state, arm)
    rates: dict[str, Rate] = {}
    differences: dict[str, tuple[int, int, int]] = {}
    for metric in experiment.guardrails:
        rates |= _rate(metric, totals)
        pairs = higher_differences(metric, totals.paired.get(metric.source, {}))
        if arm != experiment.baseline and not is_limited(metric) and pairs:
            lost, tied, won = (pairs.get(DIFFERENCE_SCALE.bin_of(value), 0) for value in (-1, 0, 1))
            differences[metric.name] = (lost, tied, won)
    return ArmOutcomes(
        name=arm,
        objective=totals.split.get(objective.source, {}),
        rates=rates,
        differences=differences,
    )


def _rate(metric: Metric, totals: Totals) -> dict[str, Rate]:
    """Successes in trials of a guardrail's metric, as shares of its range, higher is better."""
    if is_limited(metric):
        values = limited_values(metric, totals.paired if metric.is_fidelity else totals.metrics)
    else:
        values = higher_is_better(metric, totals.split.get(metric.source, {}))
    trials = total_of(values)
    if not trials:
        return {}
    scale = BINARY_SCALE if metric.is_long_tailed else scale_of(metric)
    assert not isinstance(scale, LogScale)
    return {metric.name: Rate(successes=_unit_sum(scale, values), trials=trials)}


def _unit_sum(scale: BoundedScale, values: Histogram) -> float:
    return min(
        float(total_of(values)), sum(index * count for index, count in values.items()) / (scale.bins - 1)
    )
