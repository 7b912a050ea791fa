"""V10: the best of several arms without constraints: how soon, and how often wrong, beside track-and-stop.

Two things make a rule soon: where the traffic goes, and when it stops. They are shown apart: the engine's allocation
with the very stopping rule of track-and-stop, and the engine's allocation with its own e-processes, which pay for a
guarantee that the practical threshold ln((ln t + 1) / delta) does not have.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from anabranch.bandit.betting import Claim
from anabranch.bandit.bounds import best_arm_shares
from anabranch.bandit.counts import CountContrast
from anabranch.bandit.policies.registry import allocate
from anabranch.bandit.rivals import track_and_stop
from anabranch.bandit.scales import BINARY, FloatArray
from anabranch.bandit.spec import Direction
from anabranch.bandit.thompson import AllocationProblem, ArmOutcomes, Objective
from anabranch.bandit.validation.checks import Cell, Check, Trial, mean_check, rate_check
from anabranch.bandit.weights import Limits

DELTA = 0.1
EPOCH = 50
INSTANCES = {"GK16 first": (0.5, 0.45, 0.43, 0.4), "GK16 second": (0.3, 0.21, 0.2, 0.19, 0.18)}
PUBLISHED = {"GK16 first": 4_052.0, "GK16 second": 1_406.0}
LIMITS = Limits(min_prob=0.01, baseline_floor=0.01, max_weight=0.98, max_change=1e6)
OBJECTIVE = Objective(scale=BINARY, tau=None, direction=Direction.MAX)


def _tracked(means: tuple[float, ...], trial: Trial, *, uniform: bool) -> tuple[FloatArray, FloatArray]:
    """Requests and correctness of track-and-stop (or of equal shares with its stopping rule), in all runs at once."""
    truth, runs = np.array(means), trial.runs + 100
    good, seen = np.zeros((runs, truth.size)), np.zeros((runs, truth.size))
    stop, right = np.full(runs, np.inf), np.zeros(runs)
    limit = 40.0 * best_arm_shares(means)[1]
    for epoch in range(1, int(limit / EPOCH) + 1):
        shares = np.full(good.shape, 1.0 / truth.size)
        if epoch > 2 and not uniform:
            shares = track_and_stop.optimal_shares(np.clip(good / np.maximum(seen, 1.0), 0.01, 0.99))
        counts = track_and_stop.tracked_counts(seen, shares, EPOCH)
        good, seen = good + trial.rng.binomial(counts, truth), seen + counts
        ratio, leader = track_and_stop.least_ratio(good, seen)
        ended = np.isinf(stop) & (ratio > track_and_stop.threshold(epoch * EPOCH, DELTA))
        stop, right = np.where(ended, epoch * EPOCH, stop), np.where(ended, leader == 0, right)
        if np.isfinite(stop).all():
            break
    return stop, right


def _engine(means: tuple[float, ...], rng: np.random.Generator) -> tuple[float, bool, float, bool]:
    """One run of the engine's allocation: requests and correctness with the ratio's and with its own stopping rule."""
    truth = np.array(means)
    names = [f"arm{number}" for number in range(truth.size)]
    shares, characteristic_time = best_arm_shares(means)
    planned = characteristic_time * math.log(1.0 / DELTA) * float(shares.max())
    test = CountContrast(claim=Claim.SUPERIORITY, planned_count=planned, alpha=DELTA / (truth.size - 1))
    need = math.log((truth.size - 1) / DELTA)
    good, seen = np.zeros(truth.size, dtype=np.int64), np.zeros(truth.size, dtype=np.int64)
    weights = dict.fromkeys(names, 1.0 / truth.size)
    by_ratio, by_ratio_right = math.inf, False
    for epoch in range(1, int(40.0 * characteristic_time / EPOCH) + 1):
        size = rng.multinomial(EPOCH, list(weights.values()))
        good, seen = good + rng.binomial(size, truth), seen + size
        ratios, leaders = track_and_stop.least_ratio(good[None, :].astype(float), seen[None, :].astype(float))
        ratio, leader = float(ratios[0]), int(leaders[0])
        if math.isinf(by_ratio) and ratio > track_and_stop.threshold(epoch * EPOCH, DELTA):
            by_ratio, by_ratio_right = epoch * EPOCH, leader == 0
        histograms = [{0: int(n - s), 1: int(s)} for s, n in zip(good, seen, strict=True)]
        # A mixture never exceeds the largest likelihood ratio: below it there is nothing to look for.
        if ratio >= need and all(
            test.log_e(histograms[leader], histograms[rival]) >= need
            for rival in range(truth.size)
            if rival != leader
        ):
            if math.isinf(by_ratio):
                by_ratio, by_ratio_right = epoch * EPOCH, leader == 0
            return by_ratio, by_ratio_right, epoch * EPOCH, leader == 0
        arms = [
            ArmOutcomes(name=name, objective=histogram)
            for name, histogram in zip(names, histograms, strict=True)
        ]
        problem = AllocationProblem(
            baseline=arms[0], candidates=tuple(arms[1:]), objective=OBJECTIVE, limits=LIMITS
        )
        weights = allocate(problem, rng)
    return by_ratio, by_ratio_right, math.inf, False


def _best_arm(name: str, trial: Trial) -> tuple[Check, ...]:
    means = INSTANCES[name]
    tracked, tracked_right = _tracked(means, trial, uniform=False)
    equal, equal_right = _tracked(means, trial, uniform=True)
    runs = [_engine(means, trial.rng) for _ in range(trial.runs)]
    by_ratio, own = np.array([run[0] for run in runs]), np.array([run[2] for run in runs])
    rivals = {"track-and-stop": 1.0 - float(tracked_right.mean()), "uniform": 1.0 - float(equal_right.mean())}
    yardstick = float(tracked.mean())
    note = (
        f"track-and-stop {yardstick:,.0f} requests here, {PUBLISHED[name]:,.0f} published; "
        f"uniform with the same stop {equal.mean():,.0f}; the engine's stop {own.mean():,.0f}"
    )
    uniform = {"uniform": float(equal.mean()) / yardstick}
    return (
        rate_check(
            "V10",
            f"wrong best arm, own evidence, {name}",
            sum(not run[3] for run in runs),
            trial.runs,
            DELTA,
            rivals=rivals,
        ),
        mean_check(
            "V10",
            f"mean stop over track-and-stop, its stopping rule on our traffic, {name}",
            by_ratio / yardstick,
            1.1,
            rivals=uniform,
            note=note,
        ),
        mean_check(
            "V10",
            f"mean stop over track-and-stop, own evidence, {name}",
            own / yardstick,
            1.1,
            rivals=uniform,
            note=note,
        ),
    )


CELLS = tuple(
    Cell(
        row="V10",
        name=name,
        run=partial(_best_arm, name),
        long=200,
        short=20 if name.endswith("second") else 0,
    )
    for name in INSTANCES
)
