"""V7: no decision between equal arms, and no bias, while the base rate drifts and the weights ramp or follow a bandit."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from anabranch.bandit.betting import Claim, ContrastTest
from anabranch.bandit.rivals import asymptotic_cs, z_test
from anabranch.bandit.scales import FloatArray, IntArray
from anabranch.bandit.validation.checks import Cell, Check, Trial, bias_check, rate_check
from anabranch.bandit.validation.many import ManyContrasts
from anabranch.bandit.validation.splits import split_cells, two_arms

ALPHA = 0.05
RAMP = (0.05,) * 50 + (0.10,) * 50 + (0.25,) * 50 + (0.50,) * 50
SEGMENT = 200

Weights = Callable[[int, IntArray, np.random.Generator], FloatArray]


def diurnal(segment: int) -> float:
    """Five points up and down, twice in the run."""
    return 0.90 + 0.05 * math.sin(4.0 * math.pi * segment / len(RAMP))


def step(segment: int) -> float:
    """Ten points down, half-way."""
    return 0.95 if segment < len(RAMP) // 2 else 0.85


def ramp(segment: int, total: IntArray, _rng: np.random.Generator) -> FloatArray:
    """The same ramp in every run."""
    return np.full(total.shape[0], RAMP[segment])


def thompson(_segment: int, total: IntArray, rng: np.random.Generator) -> FloatArray:
    """Plain Thompson sampling on pooled counts between floors of 5 %: as adaptive, and as misled by drift, as can be."""
    p_v = rng.beta(1.0 + total[:, 1], 1.0 + total[:, 0], size=(32, total.shape[0]))
    p_c = rng.beta(1.0 + total[:, 3], 1.0 + total[:, 2], size=(32, total.shape[0]))
    result: FloatArray = np.clip((p_v > p_c).mean(axis=0), 0.05, 0.95)
    return result


def _no_decision(
    drift: Callable[[int], float], weights: Weights, world: str, trial: Trial
) -> tuple[Check, ...]:
    tests = [
        ManyContrasts(ContrastTest(claim=claim), trial.runs) for claim in (Claim.SUPERIORITY, Claim.HARM)
    ]
    top = np.full(trial.runs, -np.inf)
    pooled = np.zeros(trial.runs, dtype=np.bool_)
    peeked = np.zeros(trial.runs, dtype=np.bool_)
    total = np.zeros((trial.runs, 4), dtype=np.int64)
    for segment in range(len(RAMP)):
        pi = weights(segment, total, trial.rng)
        p = drift(segment)
        in_v = trial.rng.binomial(SEGMENT, pi)
        good_v, good_c = trial.rng.binomial(in_v, p), trial.rng.binomial(SEGMENT - in_v, p)
        counts = np.stack((in_v - good_v, good_v, SEGMENT - in_v - good_c, good_c), axis=1)
        for test in tests:
            test.advance([split_cells(counts, pi)])
            top = np.maximum(top, test.log_e())
        total += counts
        arms = two_arms(total)
        pooled |= asymptotic_cs.differs(arms, alpha=ALPHA)
        peeked |= z_test.differs(arms, alpha=ALPHA)
    # Two one-sided tests share the error of one two-sided decision.
    events = int((top >= math.log(2.0 / ALPHA)).sum())
    rivals = {"AsympCS of pooled means": float(pooled.mean()), "z, peeking": float(peeked.mean())}
    arms = two_arms(total)
    return (
        rate_check("V7", f"false decision, {world}", events, trial.runs, ALPHA, rivals=rivals),
        bias_check(
            "V7",
            f"size of the bias, {world}",
            tests[0].estimates(),
            0.001,
            rivals={"pooled means": abs(float(arms.difference.mean()))},
        ),
    )


CELLS = tuple(
    Cell(
        row="V7",
        name=f"{drift.__name__} {weights.__name__}",
        run=partial(_no_decision, drift, weights, f"{drift.__name__} drift, weights by {weights.__name__}"),
        long=2000,
        short=200,
    )
    for drift in (diurnal, step)
    for weights in (ramp, thompson)
)
