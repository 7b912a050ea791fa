"""Declare a winner when the posterior probability of being the best reaches 95 %, as many bandit products do.

Source:
    The stopping rule of GrowthBook's and Google Optimize's bandits: chance to win above 95 %, looked at whenever there
    is data. Here with flat Beta priors and the normal approximation of the two posteriors, which is close from 20
    outcomes an arm.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from anabranch.bandit.rivals.two_arms import BoolArray, TwoArms
from anabranch.bandit.scales import FloatArray

DECLARED_AT = 0.95


def probability(arms: TwoArms) -> FloatArray:
    """The posterior probability that the variant is better, shape (runs,)."""
    means, variances = [], []
    for good, seen in ((arms.good_v, arms.seen_v), (arms.good_c, arms.seen_c)):
        a, b = 1.0 + good, 1.0 + seen - good
        means.append(a / (a + b))
        variances.append(a * b / ((a + b) ** 2 * (a + b + 1.0)))
    result: FloatArray = special.ndtr((means[0] - means[1]) / np.sqrt(variances[0] + variances[1]))
    return result


def differs(arms: TwoArms, *, least: int = 100) -> BoolArray:
    """Whether either arm is declared better."""
    chance = probability(arms)
    result: BoolArray = arms.enough(least) & ((chance >= DECLARED_AT) | (chance <= 1.0 - DECLARED_AT))
    return result
