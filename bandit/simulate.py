"""The closed loop in virtual time: a described world instead of traffic, the real tick instead of a model of it.

Every virtual tick draws the requests of its interval from the world, counts them as the ingester would, and
calls `step.tick`. The same seed gives the same run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from anabranch.bandit.assignment import lay_out
from anabranch.bandit.costs import cost_per_1k, cost_scale
from anabranch.bandit.decision import Command
from anabranch.bandit.evidence import (
    Cell,
    Evidence,
    PairCell,
    Window,
    add_histograms,
    merge_cells,
    merge_pairs,
)
from anabranch.bandit.measures import DIFFERENCE_SCALE, LATENCY_SCALE, label_windows
from anabranch.bandit.scales import FloatArray, Histogram, IntArray, LogScale, total_of
from anabranch.bandit.spec import COMPUTE, COST, ERROR, FEEDBACK_PREFIX, LATENCY, TOP1_AGREEMENT, Experiment
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.step import Tick, tick

_Part = TypeVar("_Part", Cell, PairCell)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """How a variant behaves.

    Attributes:
        median_ms: Median latency.
        sigma: Standard deviation of the logarithm of the latency.
        error_rate: Probability that a request fails.
        accuracy: Probability that an answered request is right.
        agreement: Probability that a reply's top class is the baseline's; 1 for the baseline.
    """

    median_ms: float
    sigma: float = 0.3
    error_rate: float = 0.0
    accuracy: float = 0.9
    agreement: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the simulated traffic is like.

    Attributes:
        arms: By variant name, as a function of virtual seconds since the start, so that anything may drift.
        requests_per_s: Traffic.
        metric: Name after `feedback.` of the label feedback.
        label_share: Probability that a request's label comes.
    """

    arms: Callable[[float], Mapping[str, Arm]]
    requests_per_s: float = 100.0
    metric: str = "correct"
    label_share: float = 1.0


def run(
    experiment: Experiment,
    world: World,
    rng: np.random.Generator,
    *,
    interval_s: float = 1.0,
    max_ticks: int = 10_000,
    commands: Mapping[int, Sequence[Command]] | None = None,
) -> Iterator[Tick]:
    """Run an experiment until it moves no more without a person; yields every tick.

    Args:
        experiment: What is run.
        world: What it meets.
        rng: The only source of randomness besides the experiment's own seeds.
        interval_s: Virtual time between ticks.
        max_ticks: Stop here at the latest.
        commands: Requests of people by number of the tick.
    """
    state = ExperimentState()
    weights: dict[int, Mapping[str, float]] = {}
    labels = _Labels(experiment, world, rng)
    for number in range(max_ticks):
        now = number * interval_s
        evidence = Evidence(experiment=experiment.name)
        if state.weights and not state.phase.is_over:
            weights[state.epoch] = state.weights
            drawn = _draw(experiment, world, state, now, interval_s, rng, number, weights)
            evidence = labels.held_back(drawn, now, weights)
        result = tick(experiment, state, evidence, (commands or {}).get(number, ()), now)
        state = result.state
        yield result
        if not (state.phase.is_moving or any(later > number for later in commands or {})):
            return


class _Labels:
    """Holds the labels of a metric with a label window back until that has closed.

    Args:
        experiment: What is run.
        world: What it meets.
        rng: For which of the pairs without a label agree.
    """

    def __init__(self, experiment: Experiment, world: World, rng: np.random.Generator) -> None:
        self._source = FEEDBACK_PREFIX + world.metric
        self._window_s = label_windows(experiment).get(world.metric)
        self._world = world
        self._rng = rng
        self._held: deque[tuple[float, list[Cell], list[PairCell]]] = deque()

    def held_back(self, drawn: Evidence, now: float, weights: Mapping[int, Mapping[str, float]]) -> Evidence:
        """What a tick's evidence is when its labels wait, and those that waited long enough are there."""
        if self._window_s is None:
            return drawn
        cells = [self._opened(cell, cell.requests) for cell in drawn.cells]
        pairs = [self._opened(pair, pair.pairs) for pair in drawn.pairs]
        self._held.append(
            (
                now + self._window_s,
                [self._closed_cell(cell) for cell in drawn.cells],
                [self._closed_pair(pair, now) for pair in drawn.pairs],
            )
        )
        while self._held and self._held[0][0] <= now:
            _, due_cells, due_pairs = self._held.popleft()
            cells += due_cells
            pairs += due_pairs
        epochs = {cell.epoch for cell in cells} | {pair.epoch for pair in pairs}
        return replace(
            drawn,
            cells=merge_cells(cells),
            pairs=merge_pairs(pairs),
            weights={epoch: weights[epoch] for epoch in sorted(epochs)} or drawn.weights,
        )

    def _opened(self, part: _Part, count: int) -> _Part:
        known = {source: values for source, values in part.metrics.items() if source != self._source}
        return replace(part, metrics=known, windows={self._source: Window(opened=count)})

    def _closed_cell(self, cell: Cell) -> Cell:
        labels = cell.metrics[self._source]
        return Cell(
            epoch=cell.epoch,
            variant=cell.variant,
            metrics={self._source: labels},
            windows={self._source: Window(unlabelled=cell.requests - total_of(labels))},
        )

    def _closed_pair(self, pair: PairCell, now: float) -> PairCell:
        labels = pair.metrics[self._source]
        unlabelled = pair.pairs - total_of(labels)
        tied = int(self._rng.binomial(unlabelled, self._world.arms(now)[pair.variant].agreement))
        return PairCell(
            epoch=pair.epoch,
            variant=pair.variant,
            metrics={self._source: add_histograms([labels, {DIFFERENCE_SCALE.bin_of(0): tied}])},
            windows={self._source: Window(unlabelled=unlabelled - tied)},
        )


def _draw(
    experiment: Experiment,
    world: World,
    state: ExperimentState,
    now: float,
    interval_s: float,
    rng: np.random.Generator,
    number: int,
    weights: Mapping[int, Mapping[str, float]],
) -> Evidence:
    arms = world.arms(now)
    shares = lay_out([state.weights[name] for name in experiment.candidates]).weights
    requests = int(rng.poisson(world.requests_per_s * interval_s))
    sampled = int(rng.binomial(requests, state.mirror))
    served = rng.multinomial(requests - sampled, shares)
    cells = [
        _cell(experiment, state.epoch, name, arms[name], int(count), world, rng)
        for name, count in zip(experiment.arms, served, strict=True)
        if count
    ]
    pairs = [
        _pair(state.epoch, name, arms[experiment.baseline], arms[name], sampled, world, rng)
        for name in state.live
        if sampled
    ]
    return Evidence(
        experiment=experiment.name,
        first=number,
        last=number,
        cells=tuple(cells),
        pairs=tuple(pairs),
        weights={state.epoch: weights[state.epoch]},
        at_s=now,
    )


def _cell(
    experiment: Experiment,
    epoch: int,
    name: str,
    arm: Arm,
    count: int,
    world: World,
    rng: np.random.Generator,
) -> Cell:
    latencies = arm.median_ms * np.exp(arm.sigma * rng.standard_normal(count))
    failed = int(rng.binomial(count, arm.error_rate))
    labelled = int(rng.binomial(count, world.label_share))
    right = int(rng.binomial(labelled, arm.accuracy))
    latency = _histogram(LATENCY_SCALE, latencies)
    return Cell(
        epoch=epoch,
        variant=name,
        units=count,
        requests=count,
        masked=failed,
        metrics={
            LATENCY: latency,
            COMPUTE: latency,
            **_costs(experiment, name, latencies),
            ERROR: {0: count - failed, 1: failed},
            FEEDBACK_PREFIX + world.metric: {0: labelled - right, 1: right},
        },
    )


def _pair(
    epoch: int, name: str, base: Arm, arm: Arm, count: int, world: World, rng: np.random.Generator
) -> PairCell:
    """Of the pairs that differ, as many gain or lose as the two accuracies say."""
    differ = 1.0 - arm.agreement
    gain = min(differ, max(0.0, (differ + arm.accuracy - base.accuracy) / 2.0))
    agreeing = int(rng.binomial(count, arm.agreement))
    labelled = int(rng.binomial(count, world.label_share))
    lost, tied, won = rng.multinomial(labelled, [differ - gain, arm.agreement, gain])
    bins = {DIFFERENCE_SCALE.bin_of(value): int(n) for value, n in ((-1, lost), (0, tied), (1, won))}
    return PairCell(
        epoch=epoch,
        variant=name,
        pairs=count,
        metrics={TOP1_AGREEMENT: {0: count - agreeing, 1: agreeing}, FEEDBACK_PREFIX + world.metric: bins},
    )


def _costs(experiment: Experiment, name: str, latencies: FloatArray) -> dict[str, Histogram]:
    """What the requests cost, each with its hardware to itself; nothing where nobody asks, or no price is known."""
    if not experiment.hourly_prices or experiment.unpriced:
        return {}
    prices = dict(zip(experiment.arms, experiment.hourly_prices, strict=True))
    base, mine = prices[experiment.baseline], prices[name]
    assert base is not None
    assert mine is not None
    return {COST: _histogram(cost_scale(base), cost_per_1k(latencies, 1, mine))}


def _histogram(scale: LogScale, values: FloatArray) -> Histogram:
    bins: IntArray = scale.bins_of(values)
    found, counts = np.unique(bins, return_counts=True)
    return {int(index): int(count) for index, count in zip(found, counts, strict=True)}
