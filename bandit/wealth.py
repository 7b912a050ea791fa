"""The arithmetic of betting: a fixed mixture of bets, each a fair or losing game under the null hypothesis.

Every test by betting in this package watches gains x with a conditional mean of at most 0 under its null, and keeps
the wealth of eleven gamblers who stake the fractions l_0, ..., l_10 of their wealth on each gain:

    W = sum_j w_j * prod_t (1 + l_j * x_t)

Under the null W is a non-negative supermartingale that starts at 1 (an e-process), so by Ville's inequality it ever
reaches 1/alpha with probability at most alpha: look as often as you like, stop when you like. The stakes are constant
inside a segment of data and depend on earlier segments only. So inside a segment only the counts of the different
gains matter, not their order, and counts of replicas add up.

Gambler 0 holds most of the capital and plays the stake that grows fastest if the plan is true. The others cover
other truths with geometrically spaced fractions of the largest safe stake.

Source:
    Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting (JRSS B 2024), sections 4 and 5.
"""

import math
from collections.abc import Sequence

import numpy as np

from anabranch.bandit.scales import FloatArray

# Ten stakes from the largest down to 1/107 of it; neighbours differ by 2^0.75, which costs under 0.1 nats.
FRACTIONS: tuple[float, ...] = tuple(2.0 ** (-0.75 * j) for j in range(10))
GAMBLERS = len(FRACTIONS) + 1
START: tuple[float, ...] = (0.0,) * GAMBLERS

# The worst single gain may cost a gambler at most this share of the wealth: 1 would be ruin.
MAX_LOSS = 0.8
MAX_PLANNED_LOSS = 0.95

# With 0.8 of the capital on the plan the test stops earliest if the plan is true; 0.65 gives away 0.2 nats there
# and gains as much elsewhere.
PLAN_CAPITAL = 0.65
# On a default plan the capital is spread: a stake twice too large grows not at all.
GUESS_CAPITAL = 0.2

_NEWTON_STEPS = 50


def log_capital(plan_capital: float) -> FloatArray:
    """Log of the gamblers' shares of the starting capital.

    Args:
        plan_capital: share of gambler 0, in (0, 1); the rest is split evenly.

    Raises:
        ValueError: when a gambler would start with nothing.
    """
    if not 0.0 < plan_capital < 1.0:
        raise ValueError(
            f"plan capital {plan_capital} must be between 0 and 1, exclusive: 0.65 is a good choice"
        )
    rest = math.log((1.0 - plan_capital) / len(FRACTIONS))
    return np.array([math.log(plan_capital)] + [rest] * len(FRACTIONS))


def stakes(planned: float, worst: float) -> FloatArray:
    """The gamblers' stakes for one kind of segment.

    Args:
        planned: the stake that gambler 0 wants, at least 0.
        worst: size of the largest possible loss per unit of stake, above 0.
    """
    limit = MAX_LOSS / worst
    return np.array([min(planned, MAX_PLANNED_LOSS / worst)] + [limit * share for share in FRACTIONS])


def growth_optimal(outcomes: Sequence[tuple[float, float]], worst: float) -> float:
    """The stake that maximises expected log wealth, within the safe range.

    Args:
        outcomes: (gain, probability) of a planned distribution; gains above -worst.
        worst: size of the largest possible loss per unit of stake, above 0.

    Returns:
        The maximiser in [limit * smallest fraction, MAX_PLANNED_LOSS / worst]; a plan without a positive mean gain
        gets the smallest stake.

    Source:
        Kelly: A New Interpretation of Information Rate (1956). Log wealth is concave in the stake, so Newton steps,
        replaced by bisection where they leave the bracket, always converge.
    """
    low, high = MAX_LOSS / worst * FRACTIONS[-1], MAX_PLANNED_LOSS / worst
    if _slope(outcomes, low) <= 0.0:
        return low
    if _slope(outcomes, high) >= 0.0:
        return high
    stake = low
    for _ in range(_NEWTON_STEPS):
        slope = curvature = 0.0
        for gain, probability in outcomes:
            ratio = gain / (1.0 + stake * gain)
            slope += probability * ratio
            curvature += probability * ratio * ratio
        if slope > 0.0:
            low = stake
        else:
            high = stake
        proposal = stake + slope / curvature
        if not low < proposal < high:
            proposal = 0.5 * (low + high)
        if abs(proposal - stake) <= 1e-10 * stake:
            return proposal
        stake = proposal
    return stake


def _slope(outcomes: Sequence[tuple[float, float]], stake: float) -> float:
    return sum(probability * gain / (1.0 + stake * gain) for gain, probability in outcomes)


def log_growth(bets: FloatArray, gains: FloatArray, counts: FloatArray) -> FloatArray:
    """What a segment adds to each gambler's log wealth.

    Args:
        bets: stakes, shape (gamblers,).
        gains: the segment's different gains, shape (k,).
        counts: how often each occurred, shape (k,).
    """
    growth: FloatArray = np.log1p(np.multiply.outer(bets, gains)) @ counts
    return growth


def log_mixture(log_weights: FloatArray, log_wealth: Sequence[float]) -> float:
    """Log of the mixed wealth, from the gamblers' log shares and log wealth."""
    terms = log_weights + np.asarray(log_wealth)
    top = float(terms.max())
    return top + math.log(float(np.exp(terms - top).sum()))


def two_point(mean: float, spread: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """A two-point distribution on [0, 1] with a given mean and relative variance, as (value, probability) pairs.

    Args:
        mean: in (0, 1).
        spread: variance as a share of mean * (1 - mean), in [0, 1]; 1 is the Bernoulli distribution.
    """
    width = math.sqrt(spread)
    return ((mean + width * (1.0 - mean), mean), (mean - width * mean, 1.0 - mean))
