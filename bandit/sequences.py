"""Confidence sequences for display: intervals that hold at every look at once.

`proportion_interval` and `mean_interval` need one arm's outcomes to be exchangeable and read counts only, so they are
order-free and merge. `contrast_interval` covers the running mean of the difference under any drift: empirical
Bernstein on the pseudo-outcomes of a ContrastTest. A decision comes from the tests; an interval shows where the truth
may be, and is a little wider than the decision it stands beside.

Source:
    Howard, Ramdas, McAuliffe, Sekhon (Annals of Statistics 2021), theorem 4 and proposition 9; Waudby-Smith, Ramdas
    (JRSS B 2024), theorem 3 (hedged capital), with stakes that do not depend on the order.
"""

import math

from anabranch.bandit.betting import ContrastState, ContrastTest
from anabranch.bandit.fixed_stakes import border, lowest_kept
from anabranch.bandit.mixtures import Sides, beta_prior_size, gamma_exponential_bound, log_differs
from anabranch.bandit.scales import BoundedScale, FloatArray, Histogram, unit_arrays

_BELOW_ONE = math.nextafter(1.0, 0.0)


def proportion_interval(
    successes: int, trials: int, *, alpha: float, planned_count: float = 10_000.0
) -> tuple[float, float]:
    """A confidence sequence for a proportion.

    Args:
        successes: in [0, trials].
        trials: at least 0.
        alpha: error, in (0, 1).
        planned_count: trials at which the interval is tightest; fixed before the data.

    Returns:
        (low, high) in [0, 1].

    Source:
        Howard et al. 2021, proposition 7 (two-sided beta-binomial mixture), inverted.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials: successes must lie in [0, trials]")
    if trials == 0:
        return 0.0, 1.0
    size = beta_prior_size(planned_count, alpha, Sides.TWO)
    limit = math.log(1.0 / alpha)
    share = successes / trials

    def excess(threshold: float) -> float:
        # At 1 itself the mixture has no prior.
        return float(log_differs(successes, trials, min(threshold, _BELOW_ONE), size)) - limit

    step = 2.0 * math.sqrt(limit * max(share * (1.0 - share), 1.0 / trials) / trials)
    low, high = 0.0, 1.0
    if successes > 0:
        low = border(excess, outside=share * 1e-12, inside=share, step=step, open_end=0.0)
    if successes < trials:
        high = border(excess, outside=1.0 - (1.0 - share) * 1e-12, inside=share, step=step, open_end=1.0)
    return low, high


def mean_interval(scale: BoundedScale, histogram: Histogram, *, alpha: float) -> tuple[float, float]:
    """A confidence sequence for the mean of a bounded metric, in the metric's unit.

    For each candidate mean two hedged gamblers bet on values above and below it, each a mixture of fixed stakes; the
    interval keeps the means against which both together have won less than 1/alpha.

    Args:
        scale: of the metric.
        histogram: counts by bin.
        alpha: error, in (0, 1).

    Returns:
        (low, high) on the scale.
    """
    values, counts = unit_arrays(scale, histogram)
    total = float(counts.sum())
    if total == 0.0:
        return scale.low, scale.high
    width = scale.high - scale.low
    share = float(values @ counts) / total
    low = _lower_mean(values, counts, share, alpha)
    high = 1.0 - _lower_mean(1.0 - values, counts, 1.0 - share, alpha)
    return scale.low + width * low, scale.low + width * high


def _lower_mean(values: FloatArray, counts: FloatArray, mean: float, alpha: float) -> float:
    """The smallest candidate mean that the gambler on higher values has not refuted at alpha / 2."""
    return lowest_kept(
        lambda candidate: values / candidate - 1.0, counts, centre=mean, limit=math.log(2.0 / alpha)
    )


def contrast_interval(
    test: ContrastTest,
    state: ContrastState,
    *,
    alpha: float,
    least_weight: float = 0.02,
    planned_requests: float = 20_000.0,
) -> tuple[float, float]:
    """A confidence sequence for the running mean of variant - baseline, in the metric's unit, under any drift.

    Args:
        test: whose pseudo-outcomes are used; its claim and margin do not matter.
        state: of that test.
        alpha: error, in (0, 1).
        least_weight: a lower bound of the propensities of both arms in all epochs of the run; fixed before the data.
        planned_requests: requests at which the interval is tightest; fixed before the data.

    Returns:
        (low, high), within plus and minus the scale's width.

    Source:
        Howard et al. 2021, theorem 4 (empirical Bernstein) with the gamma-exponential mixture.
    """
    if not 0.0 < least_weight < 1.0:
        raise ValueError(
            f"least weight {least_weight} must be strictly between 0 and 1: give the smallest propensity"
        )
    width = test.scale.high - test.scale.low
    if state.count == 0:
        return -width, width
    # A pseudo-outcome lies in [-1/w, 1/w] and its prediction in [-1, 1].
    largest = 1.0 / least_weight + 1.0
    bound = gamma_exponential_bound(
        max(state.variance, 1e-12),
        alpha=alpha / 2.0,
        v_opt=planned_requests,
        c=largest,
        alpha_opt=alpha / 2.0,
    )
    centre, radius = state.total / state.count, bound / state.count
    low, high = (min(max(end, -1.0), 1.0) for end in (centre - radius, centre + radius))
    return low * width, high * width
