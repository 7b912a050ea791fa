"""V12: two arms that are almost equal: who is declared the winner, and how often is it the worse one?"""

from __future__ import annotations

import math

import numpy as np

from anabranch.bandit.betting import Claim, ContrastTest
from anabranch.bandit.rivals import probability_best
from anabranch.bandit.scales import IntArray
from anabranch.bandit.validation.checks import Cell, Check, Trial, rate_check
from anabranch.bandit.validation.many import ManyContrasts
from anabranch.bandit.validation.splits import split_cells, two_arms

ALPHA = 0.05
BETTER, WORSE = 0.50, 0.49
EPOCHS, EPOCH = 400, 100


def _outcomes(pi: np.ndarray[tuple[int], np.dtype[np.float64]], rng: np.random.Generator) -> IntArray:
    """An epoch's counts; the variant is the worse arm."""
    in_v = rng.binomial(EPOCH, pi)
    good_v, good_c = rng.binomial(in_v, WORSE), rng.binomial(EPOCH - in_v, BETTER)
    return np.stack((in_v - good_v, good_v, EPOCH - in_v - good_c, good_c), axis=1)


def _wrong_winner(trial: Trial) -> tuple[Check, ...]:
    for_, against = (
        ManyContrasts(ContrastTest(claim=claim), trial.runs) for claim in (Claim.SUPERIORITY, Claim.HARM)
    )
    even = np.full(trial.runs, 0.5)
    wrong, right = np.zeros(trial.runs, dtype=np.bool_), np.zeros(trial.runs, dtype=np.bool_)
    declared, declared_wrong = wrong.copy(), wrong.copy()
    adaptive = np.zeros((trial.runs, 4), dtype=np.int64)
    pi = even
    for _ in range(EPOCHS):
        counts = _outcomes(even, trial.rng)
        for test in (for_, against):
            test.advance([split_cells(counts, even)])
        wrong |= (for_.log_e() >= math.log(1.0 / ALPHA)) & ~right
        right |= (against.log_e() >= math.log(1.0 / ALPHA)) & ~wrong
        # The rival allocates by its own probabilities and stops at the first declaration.
        adaptive += _outcomes(pi, trial.rng)
        arms = two_arms(adaptive)
        chance = probability_best.probability(arms)
        now = probability_best.differs(arms, least=100) & ~declared
        declared_wrong |= now & (chance > 0.5)
        declared |= now
        pi = np.clip(chance, 0.05, 0.95)
    return (
        rate_check(
            "V12",
            f"wrong winner of {BETTER:g} against {WORSE:g}",
            int(wrong.sum()),
            trial.runs,
            ALPHA,
            rivals={"P(best) >= 95 %": float(declared_wrong.mean())},
            note=f"{EPOCHS * EPOCH:,} requests; right {right.mean():.3f}; the rival declares in {declared.mean():.3f}",
        ),
    )


CELLS = (Cell(row="V12", name=f"{BETTER:g} {WORSE:g}", run=_wrong_winner, long=2000, short=200),)
