"""V16: what another split would have earned, estimated from a log: exact arithmetic, little bias, honest intervals."""

from __future__ import annotations

import numpy as np

from anabranch.bandit import ope
from anabranch.bandit.scales import BINARY, FloatArray, IntArray
from anabranch.bandit.validation.checks import (
    Cell,
    Check,
    Trial,
    bias_check,
    not_run,
    number_check,
    rate_check,
)

ALPHA = 0.05
RATES = np.array([0.90, 0.93, 0.85])
ARMS = ("a", "b", "c")
TARGET = {"a": 0.2, "b": 0.7, "c": 0.1}
GUESS = {"a": 0.9, "b": 0.9, "c": 0.9}
FLOOR = 0.1
EPOCHS, EPOCH = 20, 200
LOOKS = {1, 3, 6, 10, 15, 20}


def _logged(rng: np.random.Generator) -> list[ope.LoggedEpoch]:
    """A log whose weights follow Thompson sampling above a floor."""
    good, seen = np.zeros(3), np.zeros(3)
    weights: FloatArray = np.full(3, 1.0 / 3.0)
    epochs = []
    for _ in range(EPOCHS):
        size: IntArray = rng.multinomial(EPOCH, weights)
        hits = rng.binomial(size, RATES)
        counts = {arm: {0: int(n - h), 1: int(h)} for arm, n, h in zip(ARMS, size, hits, strict=True)}
        epochs.append(ope.LoggedEpoch(weights=dict(zip(ARMS, weights.tolist(), strict=True)), counts=counts))
        good, seen = good + hits, seen + size
        best = rng.beta(1.0 + good, 1.0 + seen - good, size=(64, 3)).argmax(axis=1)
        share: FloatArray = np.bincount(best, minlength=3) / best.size
        weights = FLOOR + (1.0 - 3.0 * FLOOR) * share
    return epochs


def _coverage(trial: Trial) -> tuple[Check, ...]:
    truth = float(np.array([TARGET[arm] for arm in ARMS]) @ RATES)
    estimators = {"IPS": ope.ips, "SNIPS": ope.snips, "DR": ope.doubly_robust}
    missed = dict.fromkeys(estimators, 0)
    errors = {name: np.zeros(trial.runs) for name in estimators}
    for run in range(trial.runs):
        epochs = _logged(trial.rng)
        out: set[str] = set()
        for look in sorted(LOOKS):
            rows = ope.logged_epochs(BINARY, epochs[:look], TARGET, predicted=GUESS)
            for name, estimator in estimators.items():
                found = estimator(rows, alpha=ALPHA)
                if not found.low <= truth <= found.high:
                    out.add(name)
                if look == EPOCHS and found.value is not None:
                    errors[name][run] = found.value - truth
        for name in out:
            missed[name] += 1
    checks: list[Check] = []
    for name in estimators:
        checks.append(
            rate_check("V16", f"truth ever outside the interval of {name}", missed[name], trial.runs, ALPHA)
        )
        checks.append(bias_check("V16", f"size of the bias of {name}", errors[name], 0.002))
    return tuple(checks)


def _arithmetic(trial: Trial) -> tuple[Check, ...]:
    """Against the formulas written out record by record."""
    worst = 0.0
    for _ in range(trial.runs):
        size = 500
        propensity = trial.rng.dirichlet([4.0, 4.0, 2.0], size=size)
        target = trial.rng.dirichlet([1.0, 2.0, 3.0], size=size)
        predicted = trial.rng.random((size, 3))
        served = np.array([trial.rng.choice(3, p=row) for row in propensity])
        rewards = (trial.rng.random(size) < RATES[served]).astype(np.float64)
        log = ope.logged_records(target, propensity, served, rewards, predicted=predicted)
        totals = np.zeros(4)
        for row in range(size):
            arm = int(served[row])
            weight = target[row, arm] / propensity[row, arm]
            model = sum(target[row, other] * predicted[row, other] for other in range(3))
            gap = rewards[row] - predicted[row, arm]
            totals += (weight * rewards[row], weight, model + weight * gap, 1.0)
        by_hand = (totals[0] / totals[3], totals[0] / totals[1], totals[2] / totals[3])
        found = (ope.ips(log, alpha=ALPHA), ope.snips(log, alpha=ALPHA), ope.doubly_robust(log, alpha=ALPHA))
        for value, expected in zip(found, by_hand, strict=True):
            assert value.value is not None
            worst = max(worst, abs(value.value - expected))
    return (
        number_check(
            "V16", "largest difference to the formulas record by record", worst, 1e-9, runs=trial.runs
        ),
        not_run(
            "V16",
            "largest difference to the Open Bandit Pipeline",
            1e-9,
            "its releases need a Python below 3.11; the formulas record by record stand in",
        ),
    )


CELLS = (
    Cell(row="V16", name="coverage", run=_coverage, long=400, short=10),
    Cell(row="V16", name="arithmetic", run=_arithmetic, long=20, short=2),
)
