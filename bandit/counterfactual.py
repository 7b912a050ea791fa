"""Another policy over a recorded log: which weights it would have set, and what they would have earned.

The log's outcomes stay as they were; only the shares differ. At the start of every epoch the policy sees what had been
recorded by then and sets its weights; what these would have earned in the epoch is estimated from its logged weights
(`ope`). So the policy learns from the log's exposure, not from its own: the estimate is of its weights on that course.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anabranch.bandit.allocation import next_weights
from anabranch.bandit.evidence import Evidence, merge_cells
from anabranch.bandit.fold import fold
from anabranch.bandit.measures import BINARY_SCALE, log_scale_of, scale_of
from anabranch.bandit.ope import (
    LoggedEpoch,
    LoggedRewards,
    PolicyValue,
    doubly_robust,
    ips,
    logged_epochs,
    snips,
)
from anabranch.bandit.quantiles import quantile
from anabranch.bandit.recent import remember
from anabranch.bandit.scales import BoundedScale, FloatArray, Histogram, LogScale, total_of, unit_arrays
from anabranch.bandit.spec import Algorithm, BanditStep, Experiment, Metric
from anabranch.bandit.state import ExperimentState

LOGGED = "logged"
"""The weights as they were: what every other policy is compared with."""

_DEFAULT_STEP = BanditStep(
    algorithm=Algorithm.THOMPSON,
    max_weight=0.5,
    min_prob=0.02,
    update_period_s=0.0,
    min_duration_s=0.0,
    max_duration_s=0.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What a policy is judged by.

    Attributes:
        source: Of the outcomes.
        within_ms: For a latency: the reward is that a request takes at most this; None for any other metric.
    """

    metric: Metric
    within_ms: float | None = None

    @property
    def scale(self) -> BoundedScale:
        """The scale of the rewards."""
        scale = scale_of(self.metric)
        return BINARY_SCALE if isinstance(scale, LogScale) else scale

    def of(self, outcomes: Histogram) -> Histogram:
        """The rewards in a histogram of outcomes."""
        if self.within_ms is None:
            return outcomes
        last = log_scale_of(self.metric).bin_of(self.within_ms)
        quick = sum(count for index, count in outcomes.items() if index <= last)
        return {0: total_of(outcomes) - quick, 1: quick}

    def in_unit(self, value: float) -> float:
        """A mean on [0, 1] in the metric's unit."""
        return self.scale.low + value * (self.scale.high - self.scale.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a policy would have done.

    Attributes:
        weights: The last that it would have set.
        requests: Outcomes in epochs in which the log knows every arm that the policy wants.
        left_out: Outcomes in other epochs.
        effective: How many requests of the policy's own would tell as much.
        estimates: By estimator, the mean reward and its interval, in the metric's unit.
    """

    policy: str
    weights: Mapping[str, float]
    requests: int
    left_out: int
    effective: float
    estimates: Mapping[str, PolicyValue]


def default_reward(experiment: Experiment, log: Iterable[Evidence], metric: Metric) -> Reward:
    """The reward of a metric; a latency's limit is what the baseline's requests kept with the metric's statistic.

    Raises:
        ValueError: If the baseline has no outcome.
    """
    if not metric.is_long_tailed:
        return Reward(metric=metric)
    cells = merge_cells(cell for part in log for cell in part.cells if cell.variant == experiment.baseline)
    outcomes: dict[int, int] = {}
    for cell in cells:
        for index, count in cell.metrics.get(metric.source, {}).items():
            outcomes[index] = outcomes.get(index, 0) + count
    limit = quantile(log_scale_of(metric), outcomes, metric.statistic.quantile or 0.5) if outcomes else None
    if limit is None:
        raise ValueError(
            f"{experiment.baseline} has no outcome of {metric.name}: there is nothing to compare with"
        )
    return Reward(metric=metric, within_ms=limit)


def replay(
    experiment: Experiment, log: Sequence[Evidence], policy: str, reward: Reward, *, alpha: float = 0.05
) -> Replayed:
    """Run a policy over a log.

    Args:
        experiment: Whose log it is.
        log: What every tick folded in, oldest first.
        policy: `logged`, an algorithm of a bandit step, or the name of an arm that gets everything.
        reward: What is earned.
        alpha: Error of each interval.

    Raises:
        ValueError: If there is no such policy.
    """
    epochs = _by_epoch(log)
    state = ExperimentState()
    wanted: dict[str, float] = {}
    rows: list[LoggedRewards] = []
    guesses: dict[str, tuple[float, float]] = {}
    left_out = 0
    for number, logged, parts in epochs:
        state = replace(state, epoch=number, live=_live(experiment, logged))
        wanted = _wished(experiment, policy, state, logged, wanted)
        cells = merge_cells(cell for part in parts for cell in part.cells if cell.epoch == number)
        counts = {cell.variant: reward.of(cell.metrics.get(reward.metric.source, {})) for cell in cells}
        if all(logged.get(arm, 0.0) > 0.0 for arm, share in wanted.items() if share > 0.0):
            predicted = {arm: earned / count for arm, (earned, count) in guesses.items() if count}
            epoch = LoggedEpoch(weights=logged, counts=counts)
            rows.append(logged_epochs(reward.scale, [epoch], wanted, predicted=predicted))
        else:
            left_out += sum(total_of(histogram) for histogram in counts.values())
        _learn(guesses, reward.scale, counts)
        for part in parts:
            state = _fold(experiment, state, part)
    joined = _joined(rows)
    return Replayed(
        policy=policy,
        weights=wanted,
        requests=round(joined.total),
        left_out=left_out,
        effective=joined.effective_count,
        estimates={
            name: _in_unit(estimate(joined, alpha=alpha), reward)
            for name, estimate in (("ips", ips), ("snips", snips), ("dr", doubly_robust))
        },
    )


def _by_epoch(log: Sequence[Evidence]) -> list[tuple[int, Mapping[str, float], list[Evidence]]]:
    """The ticks by the epoch in which their outcomes began; one that ends late belongs to the next one's ticks too."""
    found: dict[int, tuple[Mapping[str, float], list[Evidence]]] = {}
    for part in log:
        for number, weights in sorted(part.weights.items()):
            cells = tuple(cell for cell in part.cells if cell.epoch == number)
            pairs = tuple(pair for pair in part.pairs if pair.epoch == number)
            if cells or pairs:
                own = replace(part, cells=cells, pairs=pairs, weights={number: weights})
                found.setdefault(number, (weights, []))[1].append(own)
    return [(number, *found[number]) for number in sorted(found)]


def _fold(experiment: Experiment, state: ExperimentState, part: Evidence) -> ExperimentState:
    return remember(experiment, fold(experiment, state, part), part, part.at_s)


def _live(experiment: Experiment, logged: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(name for name in experiment.candidates if logged.get(name, 0.0) > 0.0)


def _wished(
    experiment: Experiment,
    policy: str,
    state: ExperimentState,
    logged: Mapping[str, float],
    before: Mapping[str, float],
) -> dict[str, float]:
    if policy == LOGGED:
        return dict(logged)
    if policy in experiment.arms:
        return {arm: float(arm == policy) for arm in experiment.arms}
    try:
        algorithm = Algorithm(policy)
    except ValueError:
        known = ", ".join((LOGGED, *Algorithm, *experiment.arms))
        raise ValueError(f"there is no policy {policy!r}; there are: {known}") from None
    if not state.live:
        return dict(logged)
    step = replace(experiment.bandit or _DEFAULT_STEP, algorithm=algorithm)
    shares = next_weights(experiment, replace(state, weights=before or logged), step)
    return {experiment.baseline: 1.0 - sum(shares.values())} | shares


def _learn(
    guesses: dict[str, tuple[float, float]], scale: BoundedScale, counts: Mapping[str, Histogram]
) -> None:
    """Each arm's rewards so far: a model for the next epoch, made without its outcomes."""
    for arm, histogram in counts.items():
        values, numbers = unit_arrays(scale, histogram)
        earned, seen = guesses.get(arm, (0.0, 0.0))
        guesses[arm] = earned + float(values @ numbers), seen + float(numbers.sum())


def _joined(rows: Sequence[LoggedRewards]) -> LoggedRewards:
    def column(name: str) -> FloatArray:
        return np.concatenate([getattr(part, name) for part in rows] or [np.zeros(0)])

    return LoggedRewards(
        ratios=column("ratios"),
        rewards=column("rewards"),
        counts=column("counts"),
        largest=max((part.largest for part in rows), default=1.0),
        predicted=column("predicted"),
        expected=column("expected"),
    )


def _in_unit(value: PolicyValue, reward: Reward) -> PolicyValue:
    mean = None if value.value is None else reward.in_unit(value.value)
    return PolicyValue(value=mean, low=reward.in_unit(value.low), high=reward.in_unit(value.high))
