"""V18: what must not matter does not: names and order of arms, signs, units, replicas, batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from anabranch.bandit.evidence import Cell as OutcomeCell
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.fold import fold
from anabranch.bandit.judge import judge
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.quantiles import QuantileRatioTest, RatioClaim
from anabranch.bandit.scales import LATENCY_SCALE, Histogram
from anabranch.bandit.spec import Direction, Experiment, Metric, PauseStep, Role, Statistic
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.validation.checks import Cell, Check, Trial, number_check
from anabranch.bandit.validation.latencies import histogram

LARGEST = 1e-9
ARMS = ("base", "one", "two")
TICKS = 8

QUALITY = Metric(name="quality", source="feedback.right", role=Role.GUARDRAIL, non_inferiority_margin=0.02)
FAULTS = Metric(
    name="quality",
    source="feedback.wrong",
    role=Role.GUARDRAIL,
    direction=Direction.MIN,
    non_inferiority_margin=0.02,
)
LATENCY = Metric(
    name="latency",
    source="latency_ms",
    role=Role.OBJECTIVE,
    statistic=Statistic.P95,
    direction=Direction.MIN,
)


def _experiment(arms: tuple[str, ...] = ARMS, metrics: tuple[Metric, ...] = (QUALITY, LATENCY)) -> Experiment:
    return Experiment(
        name="validation",
        model="m",
        baseline=arms[0],
        candidates=arms[1:],
        metrics=metrics,
        steps=(PauseStep(duration_s=None),),
    )


def _evidence(rng: np.random.Generator) -> list[Evidence]:
    """Ticks with changing weights, and two epochs in one of them."""
    parts = []
    for number in range(TICKS):
        epochs = (number,) if number != 4 else (number - 1, number)
        weights = {
            epoch: dict(
                zip(ARMS, np.random.default_rng(epoch).dirichlet([8.0, 2.0, 2.0]).tolist(), strict=True)
            )
            for epoch in epochs
        }
        cells = []
        for epoch in epochs:
            for arm, size in zip(
                ARMS, rng.multinomial(600, list(weights[epoch].values())).tolist(), strict=True
            ):
                right = int(rng.binomial(size, 0.93))
                values = 10.0 * np.exp(0.5 * rng.standard_normal(size))
                metrics = {
                    "feedback.right": {0: size - right, 1: right},
                    "feedback.wrong": {0: right, 1: size - right},
                    "latency_ms": histogram(values),
                }
                cells.append(
                    OutcomeCell(epoch=epoch, variant=arm, units=size, requests=size, metrics=metrics)
                )
        parts.append(
            Evidence(
                experiment="validation",
                first=number + 1,
                last=number + 1,
                cells=tuple(cells),
                weights=weights,
            )
        )
    return parts


def _log_es(experiment: Experiment, parts: list[Evidence]) -> dict[str, tuple[float, float]]:
    """By metric and variant the log evidence for and against."""
    state = ExperimentState(phase=Phase.PROGRESSING, live=experiment.candidates)
    for number, part in enumerate(parts):
        state = judge(experiment, fold(experiment, state, part), float(number))
    return {key: (verdict.log_e_pass, verdict.log_e_fail) for key, verdict in state.verdicts.items()}


def _farthest(one: Mapping[str, tuple[float, float]], other: Mapping[str, tuple[float, float]]) -> float:
    assert one.keys() == other.keys()
    return max(abs(a - b) for key in one for a, b in zip(one[key], other[key], strict=True))


def _permuted(rng: np.random.Generator) -> float:
    parts = _evidence(rng)
    shuffled = [
        replace(part, cells=tuple(part.cells[index] for index in rng.permutation(len(part.cells))))
        for part in parts
    ]
    plain = _log_es(_experiment(), parts)
    return _farthest(plain, _log_es(_experiment((ARMS[0], ARMS[2], ARMS[1])), shuffled))


def _negated(rng: np.random.Generator) -> float:
    parts = _evidence(rng)
    return _farthest(
        _log_es(_experiment(metrics=(QUALITY,)), parts), _log_es(_experiment(metrics=(FAULTS,)), parts)
    )


def _split(values: Histogram, rng: np.random.Generator) -> tuple[dict[int, int], dict[int, int]]:
    one = {index: int(rng.binomial(count, 0.5)) for index, count in values.items()}
    return one, {index: count - one[index] for index, count in values.items()}


def _replicas(rng: np.random.Generator) -> float:
    """Every cell arrives in two parts, as two replicas would send it."""
    parts = _evidence(rng)
    torn = []
    for part in parts:
        cells: list[OutcomeCell] = []
        for cell in part.cells:
            halves = {source: _split(values, rng) for source, values in cell.metrics.items()}
            for half in (0, 1):
                metrics = {source: split[half] for source, split in halves.items()}
                units = cell.units // 2 if half else cell.units - cell.units // 2
                cells.append(replace(cell, units=units, requests=units, metrics=metrics))
        torn.append(replace(part, cells=tuple(cells)))
    return _farthest(_log_es(_experiment(), parts), _log_es(_experiment(), torn))


def _renamed_epochs(rng: np.random.Generator) -> float:
    """An epoch cut in two with the same weights, inside a tick."""
    parts = _evidence(rng)
    cut = []
    for part in parts:
        cells: list[OutcomeCell] = []
        weights: dict[int, Mapping[str, float]] = {}
        for cell in part.cells:
            halves = {source: _split(values, rng) for source, values in cell.metrics.items()}
            for half in (0, 1):
                metrics = {source: split[half] for source, split in halves.items()}
                epoch = 2 * cell.epoch + half
                weights[epoch] = part.weights[cell.epoch]
                cells.append(replace(cell, epoch=epoch, metrics=metrics))
        cut.append(replace(part, cells=tuple(cells), weights=weights))
    return _farthest(_log_es(_experiment(), parts), _log_es(_experiment(), cut))


def _rescaled(rng: np.random.Generator) -> float:
    """Latencies in another unit: a power of gamma moves every value by whole buckets."""
    worst = 0.0
    for tau in (0.5, 0.95):
        for claim in RatioClaim:
            test = QuantileRatioTest(claim=claim, tau=tau, ratio=1.1)
            one, other = (histogram(10.0 * np.exp(0.5 * rng.standard_normal(800))) for _ in range(2))
            shift = 400
            moved = [{index + shift: count for index, count in values.items()} for values in (one, other)]
            assert max(max(values) for values in moved) < LATENCY_SCALE.bins - 1
            plain = test.log_e(test.advance(test.start(), one, other))
            worst = max(worst, abs(plain - test.log_e(test.advance(test.start(), *moved))))
    return worst


def _streamed(rng: np.random.Generator) -> float:
    """A ratio test fed outcome by outcome against one batch."""
    test = QuantileRatioTest(claim=RatioClaim.BELOW, tau=0.9)
    values = [10.0 * np.exp(0.5 * rng.standard_normal(300)) for _ in range(2)]
    batch = test.advance(test.start(), histogram(values[0]), histogram(values[1]))
    state = test.start()
    for one, other in zip(*values, strict=True):
        state = test.advance(state, {LATENCY_SCALE.bin_of(one): 1}, {LATENCY_SCALE.bin_of(other): 1})
    return abs(test.log_e(state) - test.log_e(batch))


PROPERTIES: Mapping[str, Callable[[np.random.Generator], float]] = {
    "order of arms and cells": _permuted,
    "metric negated, direction inverse": _negated,
    "replicas apart or merged": _replicas,
    "epochs split inside a tick": _renamed_epochs,
    "unit of the latency": _rescaled,
    "stream or batch": _streamed,
}


def _unchanged(name: str, trial: Trial) -> tuple[Check, ...]:
    worst = max(PROPERTIES[name](trial.rng) for _ in range(trial.runs))
    return (number_check("V18", f"largest change of a log e-value, {name}", worst, LARGEST, runs=trial.runs),)


CELLS = tuple(
    Cell(row="V18", name=name, run=partial(_unchanged, name), long=20, short=3) for name in PROPERTIES
)
