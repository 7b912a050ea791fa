"""Capital of gamblers whose stakes are fixed in advance: one-sided evidence and limits of a mean, from counts alone.

A gain is at least -1 and has, under the null, a mean of at most 0. With stakes s that never change the wealth

    W = mean over s of prod_t (1 + s * gain_t)

does not depend on the order of the gains, so that it is a function of their counts: replicas and epochs merge by
addition. What is paid for that is a mixture over many stakes where one good one would do, about a nat.

Source:
    Waudby-Smith, Ramdas (JRSS B 2024), theorem 3 (capital processes), with stakes that do not depend on the past.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from anabranch.bandit.scales import FloatArray

# From near ruin (0.9) down to 2^-15 of it: near-optimal from a handful of values to 10^8.
STAKES: Final[FloatArray] = 0.9 * 2.0 ** -np.linspace(0.0, 15.0, 31)


def log_wealth(gains: FloatArray, counts: FloatArray) -> float:
    """Log of the mixed wealth: log evidence that the mean gain is above 0.

    Args:
        gains: different gains, each at least -1, shape (k,).
        counts: how often each occurred, shape (k,).
    """
    by_stake = np.log1p(np.multiply.outer(STAKES, gains)) @ counts
    top = float(by_stake.max())
    return top + math.log(float(np.exp(by_stake - top).sum()) / STAKES.size)


def lowest_kept(
    gains_at: Callable[[float], FloatArray], counts: FloatArray, *, centre: float, limit: float
) -> float:
    """The smallest candidate mean, at least 0, against which the gamblers have not won.

    Args:
        gains_at: the gains when the mean is a candidate, falling in the candidate, shape (k,).
        counts: how often each occurred, shape (k,).
        centre: the candidate at which the gains sum to 0: nobody can have won against it.
        limit: log wealth at which a candidate is refuted, above 0.

    Returns:
        A refuted candidate within a relative 1e-12 of the border, 0 when none is.
    """
    if centre <= 0.0:
        return 0.0

    def excess(candidate: float) -> float:
        return log_wealth(gains_at(candidate), counts) - limit

    spread = math.sqrt(float(gains_at(centre) ** 2 @ counts)) / float(counts.sum())
    step = centre * max(1.2 * math.sqrt(2.0 * limit) * spread, 1e-9)
    return border(excess, outside=centre * 1e-12, inside=centre, step=step, open_end=0.0)


def border(
    excess: Callable[[float], float], *, outside: float, inside: float, step: float, open_end: float
) -> float:
    """Where a value stops being refuted on the way from one end to the estimate, on the refuted side.

    Args:
        excess: at least 0 where a value is refuted; monotone between the ends.
        outside: the far end.
        inside: the estimate, never refuted.
        step: a guess of the border's distance from the estimate, above 0.
        open_end: the answer when the far end itself is not refuted.
    """
    # Half of what SciPy takes to load: who only shows what was decided seldom comes here.
    from scipy import optimize

    sign = 1.0 if outside > inside else -1.0
    room = abs(outside - inside)
    near, far = 0.0, min(step, room)
    while excess(inside + sign * far) < 0.0:
        if far >= room:
            return open_end
        near, far = far, min(3.0 * far, room)
    found = float(
        optimize.brentq(lambda d: excess(inside + sign * d), near, far, xtol=1e-13 * room, rtol=1e-12)
        if excess(inside + sign * near) < 0.0
        else near
    )
    slack = max(1e-12 * found, 2e-13 * room)
    return inside + sign * min(found + slack, room)
