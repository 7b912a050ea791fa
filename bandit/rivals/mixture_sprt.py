"""Mixture sequential probability ratio test with a normal mixture whose variance follows the sample, as Statsig does.

Source:
    Johari, Koomen, Pekelis, Walsh: Always valid inference (Operations Research 2022), equation 11, for the ratio;
    Statsig's documentation of sequential testing, for the mixture's variance tau = z^2 (var_v + var_c) / (n_v + n_c).
    The theory asks for a variance that is fixed before the data.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from anabranch.bandit.rivals.two_arms import BoolArray, TwoArms
from anabranch.bandit.scales import FloatArray


def halfwidth(arms: TwoArms, *, alpha: float) -> FloatArray:
    """Half the width of the two-sided always-valid interval, shape (runs,)."""
    variance = np.maximum(arms.squared_error, 1e-300)
    p_v, p_c = arms.good_v / np.maximum(arms.seen_v, 1.0), arms.good_c / np.maximum(arms.seen_c, 1.0)
    spread = p_v * (1.0 - p_v) + p_c * (1.0 - p_c)
    z = float(special.ndtri(1.0 - alpha / 2.0))
    tau = np.maximum(z * z * spread / np.maximum(arms.seen_v + arms.seen_c, 1.0), 1e-300)
    inside = variance * (variance + tau) / tau * (2.0 * math.log(1.0 / alpha) + np.log1p(tau / variance))
    result: FloatArray = np.sqrt(inside)
    return result


def differs(arms: TwoArms, *, alpha: float = 0.05, least: int = 100) -> BoolArray:
    """Whether 0 is outside the interval, with a minimum sample in both arms."""
    result: BoolArray = arms.enough(least) & (np.abs(arms.difference) > halfwidth(arms, alpha=alpha))
    return result


def not_inferior(arms: TwoArms, *, margin: float, alpha: float = 0.05, least: int = 100) -> BoolArray:
    """Whether the lower end of the interval of twice the error is above minus the margin."""
    reach = halfwidth(arms, alpha=2.0 * alpha)
    result: BoolArray = arms.enough(least) & (arms.difference - reach > -margin)
    return result
