"""V14: units that follow changing weights are rarely called a mismatch, and an arm that loses units is found."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import special

from anabranch.bandit import srm
from anabranch.bandit.scales import FloatArray, IntArray
from anabranch.bandit.validation.checks import Cell, Check, Sense, Trial, rate_check

ARMS = 3
EPOCHS = 200
UNITS = 1_000

Weights = Callable[[int, FloatArray, np.random.Generator], FloatArray]


class ManyMismatches:
    """An SrmTest in many runs: log likelihood ratios of shape (runs, arms, tilts)."""

    def __init__(self, runs: int, arms: int) -> None:
        """Begin all runs without units."""
        self._ratios = np.zeros((runs, arms, srm._TILTS.size))

    def advance(self, weights: FloatArray, units: IntArray) -> None:
        """More units: weights inside (0, 1) and units, both of shape (runs, arms)."""
        total = units.sum(axis=1)[:, None, None]
        normaliser = np.log1p(weights[:, :, None] * np.expm1(srm._TILTS))
        self._ratios += units[:, :, None] * srm._TILTS - total * normaliser

    def log_e(self) -> FloatArray:
        """Log evidence of a mismatch in every run."""
        terms = self._ratios + srm._LOG_PRIOR
        top = terms.max(axis=(1, 2))
        mixed = np.exp(terms - top[:, None, None]).sum(axis=(1, 2)) / self._ratios.shape[1]
        result: FloatArray = top + np.log(mixed)
        return result


def fixed(_epoch: int, before: FloatArray, _rng: np.random.Generator) -> FloatArray:
    """80, 10 and 10 %."""
    return np.broadcast_to(np.array([0.8, 0.1, 0.1]), before.shape)


def ramp(epoch: int, before: FloatArray, _rng: np.random.Generator) -> FloatArray:
    """One candidate from 5 to 50 %."""
    pi = (0.05, 0.10, 0.25, 0.50)[epoch * 4 // EPOCHS]
    return np.broadcast_to(np.array([0.9 - pi, pi, 0.1]), before.shape)


def bandit(_epoch: int, before: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Weights that move at random by up to a factor of two an epoch, above a floor of 5 %."""
    moved = before * np.exp2(rng.uniform(-1.0, 1.0, before.shape))
    result: FloatArray = 0.05 + (1.0 - 0.05 * ARMS) * moved / moved.sum(axis=1, keepdims=True)
    return result


def _null(weights: Weights, size: int, epochs: int, world: str, trial: Trial) -> tuple[Check, ...]:
    many = ManyMismatches(trial.runs, ARMS)
    top = np.full(trial.runs, -np.inf)
    share: FloatArray = np.full((trial.runs, ARMS), 1.0 / ARMS)
    expected, seen = np.zeros((trial.runs, ARMS)), np.zeros((trial.runs, ARMS))
    repeated = np.zeros(trial.runs, dtype=np.bool_)
    for epoch in range(epochs):
        share = weights(epoch * EPOCHS // epochs, share, trial.rng)
        units = trial.rng.multinomial(size, share)
        many.advance(share, units)
        top = np.maximum(top, many.log_e())
        expected, seen = expected + size * share, seen + units
        if seen[0].sum() >= 200:
            statistic = ((seen - expected) ** 2 / expected).sum(axis=1)
            repeated |= special.chdtrc(ARMS - 1, statistic) < 0.05
    rivals = {"chi-squared at .05, repeated": float(repeated.mean())}
    return tuple(
        rate_check(
            "V14",
            f"false mismatch at {level:g}, {world}",
            int((top >= math.log(1.0 / level)).sum()),
            trial.runs,
            level,
            rivals=rivals if level == 0.05 else None,
        )
        for level in (0.05, 0.001)
    )


def _loss(trial: Trial) -> tuple[Check, ...]:
    """A canary that loses one unit in twenty, on the ramp."""
    many = ManyMismatches(trial.runs, 2)
    found = np.full(trial.runs, np.inf)
    for epoch in range(EPOCHS):
        pi = (0.05, 0.10, 0.25, 0.50)[epoch * 4 // EPOCHS]
        kept = np.array([1.0 - pi, 0.95 * pi])
        units = trial.rng.multinomial(UNITS, kept / kept.sum(), size=trial.runs)
        many.advance(np.broadcast_to(np.array([1.0 - pi, pi]), (trial.runs, 2)), units)
        found = np.where((many.log_e() >= srm.BLOCK_LOG_E) & np.isinf(found), epoch + 1, found)
    return (
        rate_check(
            "V14",
            "loss of 5 % of the units found at .001 in 200,000 units, ramp",
            int(np.isfinite(found).sum()),
            trial.runs,
            0.99,
            sense=Sense.AT_LEAST,
            note=f"median {np.median(found):.0f} epochs of 1,000 units",
        ),
    )


CELLS = (
    *(
        Cell(
            row="V14",
            name=weights.__name__,
            run=partial(_null, weights, UNITS, EPOCHS, f"{weights.__name__} weights"),
            long=5000,
            short=200,
        )
        for weights in (fixed, ramp, bandit)
    ),
    Cell(
        row="V14",
        name="every unit",
        run=partial(_null, ramp, 1, 5_000, "ramp, a look at every unit"),
        long=1000,
        short=0,
    ),
    Cell(row="V14", name="loss", run=_loss, long=1000, short=200),
)
