"""Generalised likelihood ratio with plug-in variances and the threshold ln((1 + ln t) / delta), as TensorZero stops.

Source:
    Garivier, Kaufmann: Optimal best arm identification with fixed confidence (COLT 2016), section 3.2, whose practical
    threshold is used; TensorZero's track-and-stop experimentation: (gap + epsilon)^2 / (2 sum of variances per sample).
"""

from __future__ import annotations

import numpy as np

from anabranch.bandit.rivals.two_arms import BoolArray, TwoArms
from anabranch.bandit.scales import FloatArray

# Added to each arm's variance, so that an arm without a failure does not divide by 0.
RIDGE = 1e-6


def threshold(requests: FloatArray, delta: float) -> FloatArray:
    """What the ratio must exceed after so many requests."""
    result: FloatArray = np.log((1.0 + np.log(np.maximum(requests, 1.0))) / delta)
    return result


def ratio(arms: TwoArms, *, epsilon: float = 0.0) -> FloatArray:
    """The statistic for "the variant's gap to the baseline is above -epsilon", signed, shape (runs,)."""
    ridge = RIDGE / np.maximum(arms.seen_v, 1.0) + RIDGE / np.maximum(arms.seen_c, 1.0)
    gap = arms.difference + epsilon
    result: FloatArray = np.sign(gap) * gap * gap / (2.0 * (arms.squared_error + ridge))
    return result


def differs(arms: TwoArms, *, alpha: float = 0.05, least: int = 100) -> BoolArray:
    """Whether one arm is declared the best of the two."""
    found = np.abs(ratio(arms)) > threshold(arms.seen_v + arms.seen_c, alpha)
    result: BoolArray = arms.enough(least) & found
    return result


def not_inferior(arms: TwoArms, *, margin: float, alpha: float = 0.05, least: int = 100) -> BoolArray:
    """Whether the variant is declared best with epsilon as the margin."""
    found = ratio(arms, epsilon=margin) > threshold(arms.seen_v + arms.seen_c, alpha)
    result: BoolArray = arms.enough(least) & found
    return result
