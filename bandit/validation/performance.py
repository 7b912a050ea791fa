"""V20 and B12: what an outcome costs, how large a state is, and how long a tick takes. Figures of this machine, now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass

import numpy as np

from anabranch.bandit.evidence import Cell as OutcomeCell
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.fold import fold
from anabranch.bandit.judge import judge
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.scales import BINARY
from anabranch.bandit.spec import Direction, Experiment, Metric, PauseStep, Role, Statistic
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.validation.checks import Cell, Check, Trial, number_check
from anabranch.bandit.validation.latencies import histogram

VARIANTS, EPOCHS = 16, 1_000
OUTCOMES = 200_000


def _metrics() -> tuple[Metric, ...]:
    """Eight metrics of every kind."""
    latency = [
        Metric(
            name=f"latency {statistic}",
            source="latency_ms",
            role=Role.OBJECTIVE if statistic is Statistic.P95 else Role.SIGNAL,
            statistic=statistic,
            direction=Direction.MIN,
            maximum=None if statistic is Statistic.P95 else 200.0,
        )
        for statistic in (Statistic.P50, Statistic.P95, Statistic.P99)
    ]
    rates = [
        Metric(
            name=f"rate {number}",
            source=f"feedback.{number}",
            role=Role.GUARDRAIL,
            non_inferiority_margin=0.02,
        )
        for number in range(4)
    ]
    errors = Metric(
        name="errors",
        source="error",
        role=Role.GUARDRAIL,
        direction=Direction.MIN,
        non_inferiority_margin=0.01,
    )
    return (*latency, *rates, errors)


def _experiment(candidates: int) -> Experiment:
    return Experiment(
        name="validation",
        model="m",
        baseline="base",
        candidates=tuple(f"v{number}" for number in range(candidates)),
        metrics=_metrics(),
        steps=(PauseStep(duration_s=None),),
    )


def _evidence(experiment: Experiment, number: int, size: int, rng: np.random.Generator) -> Evidence:
    share = 1.0 / len(experiment.arms)
    cells = []
    for arm in experiment.arms:
        right = int(rng.binomial(size, 0.95))
        rates = {f"feedback.{metric}": {0: size - right, 1: right} for metric in range(4)}
        metrics = {
            "latency_ms": histogram(10.0 * np.exp(0.5 * rng.standard_normal(size))),
            "error": {0: right, 1: size - right},
            **rates,
        }
        cells.append(OutcomeCell(epoch=number, variant=arm, units=size, requests=size, metrics=metrics))
    weights = dict.fromkeys(experiment.arms, share)
    return Evidence(
        experiment="validation",
        first=number,
        last=number,
        cells=tuple(cells),
        weights={number: weights},
    )


def state_bytes(value: object) -> int:
    """Eight bytes for every number, one for every character: what a compact encoding of a state takes."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int | float):
        return 8
    if is_dataclass(value) and not isinstance(value, type):
        return sum(state_bytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return sum(state_bytes(key) + state_bytes(item) for key, item in value.items())
    if isinstance(value, Sequence):
        return sum(state_bytes(item) for item in value)
    return 0


def _outcome_cost(trial: Trial) -> tuple[Check, ...]:
    """Counting outcomes and folding them into all tests of eight metrics, a request."""
    experiment = _experiment(1)
    state = ExperimentState(phase=Phase.PROGRESSING, live=experiment.candidates)
    values = 10.0 * np.exp(0.5 * trial.rng.standard_normal(OUTCOMES))
    bits = (trial.rng.random((5, OUTCOMES)) < 0.95).astype(np.float64)
    best = np.inf
    for _ in range(trial.runs):
        began = trial.clock()
        half = OUTCOMES // 2
        cells = []
        for arm, part in (("base", slice(0, half)), ("v0", slice(half, None))):
            counted = {
                f"feedback.{row}" if row < 4 else "error": dict(
                    enumerate(np.bincount(BINARY.bins_of(bits[row, part]), minlength=2).tolist())
                )
                for row in range(5)
            }
            metrics = {"latency_ms": histogram(values[part]), **counted}
            cells.append(OutcomeCell(epoch=0, variant=arm, units=half, requests=half, metrics=metrics))
        evidence = Evidence(
            experiment="validation", cells=tuple(cells), weights={0: {"base": 0.5, "v0": 0.5}}
        )
        fold(experiment, state, evidence)
        best = min(best, trial.clock() - began)
    name = "microseconds a request to count and fold eight metrics, in batches"
    return (number_check("V20", name, 1e6 * best / OUTCOMES, 2.0, runs=trial.runs, note="best of the runs"),)


def _long_experiment(trial: Trial) -> tuple[Check, ...]:
    """A thousand epochs of sixteen variants and eight metrics: the last tick, and what must be kept."""
    experiment = _experiment(VARIANTS)
    state = ExperimentState(phase=Phase.PROGRESSING, live=experiment.candidates)
    for number in range(trial.runs):
        state = fold(experiment, state, _evidence(experiment, number, 50, trial.rng))
    largest = max(
        sum(state_bytes(tests) for key, tests in state.tests.items() if key.endswith(f"/{arm}"))
        + state_bytes(state.totals[arm])
        for arm in experiment.candidates
    )
    best = np.inf
    for repeat in range(20):
        evidence = _evidence(experiment, trial.runs + repeat, 50, trial.rng)
        began = trial.clock()
        judge(experiment, fold(experiment, state, evidence), 0.0)
        best = min(best, trial.clock() - began)
    world = f"{VARIANTS} variants, 8 metrics, {trial.runs:,} epochs"
    one_epoch = max(state_bytes(cell) for cell in _evidence(experiment, 0, 20_000, trial.rng).cells)
    return (
        number_check(
            "V20", f"milliseconds a tick to fold and judge, {world}", 1e3 * best, 50.0, note="best of 20"
        ),
        number_check("V20", f"kilobytes of state a variant, {world}", largest / 1024.0, 32.0),
        number_check(
            "V20", "kilobytes of evidence a variant and epoch, 20,000 requests", one_epoch / 1024.0, 32.0
        ),
    )


def _hundred(trial: Trial) -> tuple[Check, ...]:
    """A tick with a hundred candidates and eight metrics, which must fit into the second between two ticks."""
    experiment = _experiment(100)
    state = ExperimentState(phase=Phase.PROGRESSING, live=experiment.candidates)
    best = np.inf
    for number in range(trial.runs):
        evidence = _evidence(experiment, number, 50, trial.rng)
        began = trial.clock()
        state = judge(experiment, fold(experiment, state, evidence), float(number))
        best = min(best, trial.clock() - began)
    name = "milliseconds a tick to fold and judge, a hundred variants, 8 metrics"
    return (number_check("B12", name, 1e3 * best, 1_000.0, runs=trial.runs, note="expected: below a second"),)


CELLS = (
    Cell(row="V20", name="outcomes", run=_outcome_cost, long=20, short=3),
    Cell(row="V20", name="ticks", run=_long_experiment, long=EPOCHS, short=20),
    Cell(row="B12", name="tick", run=_hundred, long=10, short=2),
)
