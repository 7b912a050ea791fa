"""V17: the best arm changes: what the allocation's memory costs, beside a window tuned with hindsight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anabranch.bandit.allocation import next_weights
from anabranch.bandit.evidence import Cell as OutcomeCell
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.policies.registry import Algorithm
from anabranch.bandit.recent import remember
from anabranch.bandit.rivals.sliding_window import SlidingWindow
from anabranch.bandit.scales import FloatArray
from anabranch.bandit.spec import BanditStep, Experiment, Metric, Role
from anabranch.bandit.state import ExperimentState
from anabranch.bandit.validation.checks import Cell, Check, Trial, mean_check

ARMS = ("base", "one", "two")
# The best arm changes every 60 epochs; the baseline is never the best.
RATES = np.array([[0.80, 0.90, 0.70], [0.80, 0.70, 0.90]])
STRETCH, STRETCHES, EPOCH = 60, 4, 100
MEMORY_EPOCHS = 10
WINDOWS = (5, 10, 20, 40, 80, STRETCH * STRETCHES)
FLOORS = np.array([0.10, 0.02, 0.02])


def _experiment(algorithm: Algorithm) -> Experiment:
    step = BanditStep(
        algorithm=algorithm,
        max_weight=0.88,
        min_prob=0.02,
        update_period_s=1.0,
        min_duration_s=0.0,
        max_duration_s=1e9,
        memory_s=float(MEMORY_EPOCHS),
    )
    objective = Metric(name="right", source="feedback.right", role=Role.OBJECTIVE)
    return Experiment(
        name="validation",
        model="m",
        baseline=ARMS[0],
        candidates=ARMS[1:],
        metrics=(objective,),
        steps=(step,),
    )


def _rates(epoch: int) -> FloatArray:
    result: FloatArray = RATES[(epoch // STRETCH) % 2]
    return result


def _regret(weights: FloatArray, epoch: int) -> FloatArray:
    """Expected successes that an epoch's weights give away, in whichever shape of runs."""
    rates = _rates(epoch)
    result: FloatArray = EPOCH * (rates.max() - weights @ rates)
    return result


def _own(algorithm: Algorithm, rng: np.random.Generator, seed: int) -> tuple[float, list[int]]:
    """One run of the engine's allocation: regret, and epochs until the new best arm leads after every change."""
    experiment = replace(_experiment(algorithm), name=f"validation {seed}")
    step = experiment.bandit
    assert step is not None
    weights = dict.fromkeys(ARMS, 1.0 / len(ARMS))
    state = ExperimentState(phase=Phase.PROGRESSING, live=ARMS[1:], weights=weights)
    regret, recoveries, pending = 0.0, [], False
    for epoch in range(STRETCH * STRETCHES):
        shares = np.array([weights[arm] for arm in ARMS])
        regret += float(_regret(shares, epoch))
        pending = pending or (epoch > 0 and epoch % STRETCH == 0)
        if pending and shares.argmax() == _rates(epoch).argmax():
            recoveries.append(epoch % STRETCH)
            pending = False
        size = rng.multinomial(EPOCH, shares)
        hits = rng.binomial(size, _rates(epoch))
        cells = tuple(
            OutcomeCell(
                epoch=epoch,
                variant=arm,
                units=int(n),
                requests=int(n),
                metrics={"feedback.right": {0: int(n - h), 1: int(h)}},
            )
            for arm, n, h in zip(ARMS, size, hits, strict=True)
        )
        evidence = Evidence(
            experiment="validation", first=epoch + 1, last=epoch + 1, cells=cells, weights={epoch: weights}
        )
        state = replace(remember(experiment, state, evidence, float(epoch)), weights=weights, epoch=epoch)
        candidates = next_weights(experiment, state, step)
        weights = {ARMS[0]: 1.0 - sum(candidates.values()), **candidates}
    if pending:
        recoveries.append(STRETCH)
    return regret, recoveries


def _windowed(window: int, trial: Trial) -> FloatArray:
    """Regret of a sliding window in all runs."""
    policy = SlidingWindow(trial.runs, FLOORS, window)
    total = np.zeros(trial.runs)
    for epoch in range(STRETCH * STRETCHES):
        weights = policy.weights(trial.rng)
        total += _regret(weights, epoch)
        seen = trial.rng.multinomial(EPOCH, weights)
        policy.learn(trial.rng.binomial(seen, _rates(epoch)), seen)
    return total


def _changes(trial: Trial) -> tuple[Check, ...]:
    windows = {window: float(_windowed(window, trial).mean()) for window in WINDOWS}
    best = min(windows, key=lambda window: windows[window])
    runs = [_own(Algorithm.PLAIN_THOMPSON, trial.rng, number) for number in range(trial.runs)]
    regret = np.array([one for one, _ in runs])
    recovery = np.array([max(times) for _, times in runs], dtype=np.float64)
    few = max(trial.runs // 10, 2)
    top_two = float(np.mean([_own(Algorithm.THOMPSON, trial.rng, number)[0] for number in range(few)]))
    rivals = {
        "top-two": top_two / windows[best],
        "no memory limit": windows[STRETCH * STRETCHES] / windows[best],
    }
    note = (
        f"regret {regret.mean():,.0f} of {STRETCH * STRETCHES * EPOCH:,} requests; best window {best} epochs: "
        f"{windows[best]:,.0f}; the engine remembers {MEMORY_EPOCHS} to {2 * MEMORY_EPOCHS} epochs"
    )
    return (
        mean_check(
            "V17",
            "regret over that of the best sliding window",
            regret / windows[best],
            1.3,
            rivals=rivals,
            note=note,
        ),
        mean_check(
            "V17",
            "longest recovery after a change, in memories",
            recovery / MEMORY_EPOCHS,
            2.0,
            note="until the new best arm has the largest weight",
        ),
    )


CELLS = (Cell(row="V17", name="changes", run=_changes, long=40, short=3),)
