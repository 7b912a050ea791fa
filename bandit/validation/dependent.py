"""V9 and B3 to B5: latencies that depend on their predecessors: autocorrelation, queues, batches that end together.

The split's test trusts the router's coin, given the past. A state that all arms share (load, a noisy neighbour) is part
of the past and harmless. A state that one arm's requests alone share (a pool's own queue, a batch) makes the coin flip
one of a cluster: those worlds are what these rows look for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from scipy import signal

from anabranch.bandit.evidence import Evidence
from anabranch.bandit.scales import FloatArray
from anabranch.bandit.validation.checks import Cell, Check, Trial, not_run, rate_check
from anabranch.bandit.validation.judged import (
    BASELINE,
    CANDIDATE,
    decided,
    latency_objective,
    split_evidence,
    two_arm_experiment,
)
from anabranch.bandit.validation.latencies import histogram
from anabranch.bandit.verdicts import Outcome

ALPHA = 0.05
TICKS, TICK = 30, 300
BATCH = 8
RAMP = (0.05, 0.10, 0.25, 0.50)
UTILISATION = 0.7

# The latencies of all requests in order, given which of them the candidate served.
World = Callable[[np.ndarray[tuple[int], np.dtype[np.bool_]], np.random.Generator], FloatArray]
Arms = np.ndarray[tuple[int], np.dtype[np.bool_]]


def autocorrelated(rho: float, size: int, rng: np.random.Generator) -> FloatArray:
    """A stationary AR(1) series of variance 1."""
    noise = rng.standard_normal(size) * math.sqrt(1.0 - rho * rho)
    start = np.array([rho * rng.standard_normal()])
    result: FloatArray = signal.lfilter([1.0], [1.0, -rho], noise, zi=start)[0]
    return result


def _latency(state: FloatArray, rng: np.random.Generator) -> FloatArray:
    result: FloatArray = 10.0 * np.exp(0.4 * state + 0.2 * rng.standard_normal(state.size))
    return result


def shared_load(rho: float, arms: Arms, rng: np.random.Generator) -> FloatArray:
    """One state for all pools."""
    return _latency(autocorrelated(rho, arms.size, rng), rng)


def own_state(rho: float, arms: Arms, rng: np.random.Generator) -> FloatArray:
    """Every pool has a state of its own, which moves with its own requests."""
    state = np.empty(arms.size)
    for mask in (arms, ~arms):
        state[mask] = autocorrelated(rho, int(mask.sum()), rng)
    return _latency(state, rng)


def _waits(service: FloatArray, gaps: FloatArray) -> FloatArray:
    """Waiting times of a first-come queue, by Lindley's recursion as a running minimum."""
    walk = np.concatenate(([0.0], np.cumsum(service[:-1] - gaps[1:])))
    result: FloatArray = walk - np.minimum.accumulate(walk)
    return result


def own_queue(arms: Arms, rng: np.random.Generator) -> FloatArray:
    """Every pool has a queue of its own at 70 % of its capacity."""
    latency = np.empty(arms.size)
    for mask in (arms, ~arms):
        size = int(mask.sum())
        service = rng.exponential(10.0, size)
        latency[mask] = service + _waits(service, rng.exponential(10.0 / UTILISATION, size))
    return latency


def compute_time(arms: Arms, rng: np.random.Generator) -> FloatArray:
    """The same pools, measured without the wait: what `compute_ms` counts."""
    return rng.exponential(10.0, arms.size)


def shared_queue(arms: Arms, rng: np.random.Generator) -> FloatArray:
    """All requests wait in one queue at 70 % of its capacity."""
    service = rng.exponential(10.0, arms.size)
    return service + _waits(service, rng.exponential(10.0 / UTILISATION, arms.size))


def batches(mixed: bool, arms: Arms, rng: np.random.Generator) -> FloatArray:
    """Eight requests at a time end together: of all arms, or of one arm each."""
    latency = np.empty(arms.size)
    for mask in (np.ones_like(arms),) if mixed else (arms, ~arms):
        size = int(mask.sum())
        ends = 10.0 * np.exp(0.5 * rng.standard_normal(size // BATCH + 1))
        latency[mask] = np.repeat(ends, BATCH)[:size]
    return latency


def _ticks(latency: FloatArray, arms: Arms) -> Iterator[Evidence]:
    weights = {BASELINE: 0.5, CANDIDATE: 0.5}
    for number in range(TICKS):
        part = slice(number * TICK, (number + 1) * TICK)
        values, served = latency[part], arms[part]
        outcomes = {
            BASELINE: {"latency_ms": histogram(values[~served])},
            CANDIDATE: {"latency_ms": histogram(values[served])},
        }
        yield split_evidence(number + 1, weights, outcomes)


def _equal_arms(row: str, world: World, name: str, note: str, trial: Trial) -> tuple[Check, ...]:
    experiment = two_arm_experiment(latency_objective())
    wrong = 0
    for _ in range(trial.runs):
        arms = trial.rng.random(TICKS * TICK) < 0.5
        latency = world(arms, trial.rng)
        wrong += decided(experiment, _ticks(latency, arms)) is not Outcome.INCONCLUSIVE
    return (rate_check(row, f"false decision on p95, {name}", wrong, trial.runs, ALPHA, note=note),)


def _day(trial: Trial) -> tuple[Check, ...]:
    """The load of a day slows all pools alike by up to a half, while the candidate ramps up."""
    experiment = two_arm_experiment(latency_objective())
    wrong = 0
    for _ in range(trial.runs):
        parts = []
        for number in range(TICKS):
            pi = RAMP[number * len(RAMP) // TICKS]
            served = trial.rng.random(TICK) < pi
            slow = 1.0 + 0.5 * math.sin(2.0 * math.pi * number / TICKS) ** 2
            values = 10.0 * slow * np.exp(0.4 * trial.rng.standard_normal(TICK))
            outcomes = {
                BASELINE: {"latency_ms": histogram(values[~served])},
                CANDIDATE: {"latency_ms": histogram(values[served])},
            }
            weights = {BASELINE: 1.0 - pi, CANDIDATE: pi}
            parts.append(split_evidence(number + 1, weights, outcomes, epoch=number))
        wrong += decided(experiment, parts) is not Outcome.INCONCLUSIVE
    name = "false decision on p95, load of the day on a ramp"
    return (rate_check("B5", name, wrong, trial.runs, ALPHA, note="expected: at most .05"),)


def _interference(_trial: Trial) -> tuple[Check, ...]:
    reason = "the engine has no test for interference: pools must be isolated, or time slots switched"
    return (not_run("V9", "a shared queue with a slower arm raises a warning", 0.99, reason),)


def _cells() -> tuple[Cell, ...]:
    worlds: list[tuple[str, str, World, str]] = []
    for rho in (0.5, 0.9):
        worlds.append(("V9", f"load that all pools share, AR(1) {rho:g}", partial(shared_load, rho), ""))
        worlds.append(
            ("V9", f"isolated pools, own AR(1) {rho:g}", partial(own_state, rho), "as with own queues")
        )
    worlds += [
        (
            "V9",
            "isolated pools, own queues",
            own_queue,
            "a pool's queue is a state that its own requests share: given the past the pools are not equally fast",
        ),
        ("V9", "isolated pools, own queues, compute time", compute_time, "the analysis for such pools"),
        ("V9", "one queue for all", shared_queue, ""),
        ("B3", "batches of 8 across arms", partial(batches, True), "expected: at most .05"),
        (
            "B3",
            "batches of 8 of one arm",
            partial(batches, False),
            "expected: missed, as a batch is one observation that is counted eight times",
        ),
        ("B4", "load that all pools share, AR(1) 0.99", partial(shared_load, 0.99), "expected: at most .05"),
    ]
    cells = [
        Cell(
            row=row,
            name=name,
            run=partial(_equal_arms, row, world, name, note),
            long=200,
            short=15 if row != "V9" or "0.9" in name else 0,
        )
        for row, name, world, note in worlds
    ]
    return (
        *cells,
        Cell(row="V9", name="interference", run=_interference, long=1, short=1),
        Cell(row="B5", name="load of the day", run=_day, long=200, short=15),
    )


CELLS = _cells()
