"""Asymptotic confidence sequence on the difference of pooled means, as GrowthBook's sequential engine applies it.

Asymptotic means: the error is kept when the plug-in variance is right. While an arm has seen no failure it is not.

Source:
    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: Time-uniform central limit theory and asymptotic confidence sequences
    (Annals of Statistics 2024, arXiv 2103.06476), equations 9 and 161; GrowthBook's documentation of sequential
    testing, with its default tuning at 5,000 observations.
"""

from __future__ import annotations

import math

import numpy as np

from anabranch.bandit.rivals.two_arms import BoolArray, TwoArms
from anabranch.bandit.scales import FloatArray

TUNED_FOR = 5_000.0


def halfwidth(arms: TwoArms, *, alpha: float, tuned_for: float = TUNED_FOR) -> FloatArray:
    """Half the width of the two-sided sequence, shape (runs,)."""
    n = np.maximum(arms.seen_v + arms.seen_c, 2.0)
    log_alpha = math.log(alpha)
    rho_squared = (-2.0 * log_alpha + math.log(-2.0 * log_alpha + 1.0)) / tuned_for
    grown = n * rho_squared + 1.0
    scale = 2.0 * grown * np.log(np.sqrt(grown) / alpha) / (n * n * rho_squared)
    result: FloatArray = np.sqrt(arms.squared_error * n * scale)
    return result


def differs(arms: TwoArms, *, alpha: float = 0.05, least: int = 100) -> BoolArray:
    """Whether 0 is outside the sequence, with a minimum sample in both arms."""
    result: BoolArray = arms.enough(least) & (np.abs(arms.difference) > halfwidth(arms, alpha=alpha))
    return result


def not_inferior(
    arms: TwoArms, *, margin: float, alpha: float = 0.05, least: int = 100, tuned_for: float = TUNED_FOR
) -> BoolArray:
    """Whether the one-sided lower end, at error alpha, is above minus the margin."""
    reach = halfwidth(arms, alpha=2.0 * alpha, tuned_for=tuned_for)
    result: BoolArray = arms.enough(least) & (arms.difference - reach > -margin)
    return result
