"""The two-sample z test of proportions: at a fixed horizon, or wrongly at every look.

Source:
    Any textbook; unpooled variance. `planned_size` is the usual sample size formula for non-inferiority.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from anabranch.bandit.rivals.two_arms import BoolArray, TwoArms


def differs(arms: TwoArms, *, alpha: float = 0.05, least: int = 100) -> BoolArray:
    """Whether the two-sided test rejects equality."""
    z = float(special.ndtri(1.0 - alpha / 2.0))
    result: BoolArray = arms.enough(least) & (np.abs(arms.difference) > z * np.sqrt(arms.squared_error))
    return result


def not_inferior(arms: TwoArms, *, margin: float, alpha: float = 0.05, least: int = 100) -> BoolArray:
    """Whether the one-sided test rejects a deficit of the margin."""
    z = float(special.ndtri(1.0 - alpha))
    result: BoolArray = arms.enough(least) & (arms.difference + margin > z * np.sqrt(arms.squared_error))
    return result


def planned_size(*, p: float, margin: float, pi: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Requests that a fixed-horizon test of non-inferiority of equal arms needs for its power."""
    reach = float(special.ndtri(1.0 - alpha) + special.ndtri(power))
    return reach * reach * p * (1.0 - p) * (1.0 / pi + 1.0 / (1.0 - pi)) / (margin * margin)
