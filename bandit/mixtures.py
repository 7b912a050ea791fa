"""Mixture supermartingales and their uniform boundaries, in the log domain and without underflow.

A mixture averages exp(l*S - psi(l)*V) over a prior on l, so it needs no choice of l; a boundary is where the mixture
reaches 1/alpha. `log_above` and `log_below` are the exact one-sided tests of a proportion that the quantile tests and
the confidence sequences are made of.

Source:
    Howard, Ramdas, McAuliffe, Sekhon: Time-uniform, nonparametric, nonasymptotic confidence sequences (Annals of
    Statistics 2021), section 3 and appendix A.3 (propositions 5 to 9). Values agree with the reference
    implementation, confseq 0.0.11.
"""

import math
from collections.abc import Callable
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import special

from anabranch.bandit.scales import FloatArray

# scipy's incomplete beta has lost digits at 1e-277 already (seen at a=31.3, b=317.7) and is 0 below 1e-308.
_TINY = 1e-240
_MAX_FRACTION_STEPS = 20_000


class Sides(StrEnum):
    """Whether deviations in both directions count, or those above only."""

    ONE = "one"
    TWO = "two"


def mixture_scale(v_opt: float, alpha: float, sides: Sides) -> float:
    """The mixture's parameter rho that makes the boundary tightest at one intrinsic time.

    Args:
        v_opt: intrinsic time (variance so far) at which to be tight, above 0.
        alpha: error, in (0, 1).
        sides: of the boundary.

    Source:
        Howard et al. 2021, proposition 3, with the approximation of W_{-1} that confseq uses.
    """
    if not (v_opt > 0.0 and 0.0 < alpha < 1.0):
        raise ValueError(f"v_opt {v_opt} must be positive and alpha {alpha} in (0, 1)")
    # A one-sided boundary spends on one side what a two-sided one splits; the optimum exists for alpha < 1/2 only.
    spent = min(2.0 * alpha, 0.999) if sides is Sides.ONE else alpha
    log_inverse = math.log(1.0 / spent)
    return v_opt / (2.0 * log_inverse + math.log1p(2.0 * log_inverse))


def log_incomplete_beta(a: npt.ArrayLike, b: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
    """Log of the regularised incomplete beta function I_x(a, b), also where it underflows; shapes broadcast.

    Args:
        a: above 0.
        b: above 0.
        x: in [0, 1].

    Source:
        In the far lower tail the continued fraction of DLMF 8.17.22 by Lentz's algorithm; it converges fast there.
    """
    a, b, x = np.broadcast_arrays(
        np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), np.asarray(x, dtype=np.float64)
    )
    value = special.betainc(a, b, x)
    with np.errstate(divide="ignore"):
        log_value: FloatArray = np.log(value)
    tail = (value < _TINY) & (x > 0.0)
    if tail.any():
        log_value = np.array(log_value)
        log_value[tail] = _log_beta_fraction(a[tail], b[tail], x[tail])
    return log_value


def _log_beta_fraction(a: FloatArray, b: FloatArray, x: FloatArray) -> FloatArray:
    """Log I_x(a, b) for x far below the mean a/(a + b)."""
    c = np.ones_like(a)
    d = 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    fraction = d.copy()
    for m in range(1, _MAX_FRACTION_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d = 1.0 / (1.0 + even * d)
        c = 1.0 + even / c
        fraction *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d = 1.0 / (1.0 + odd * d)
        c = 1.0 + odd / c
        step = c * d
        fraction *= step
        if np.abs(step - 1.0).max() < 1e-14:
            break
    result: FloatArray = (
        a * np.log(x) + b * np.log1p(-x) - np.log(a) - special.betaln(a, b) + np.log(fraction)
    )
    return result


def beta_prior_size(n_opt: float, alpha: float, sides: Sides) -> float:
    """Prior observations k of a beta mixture with mean q that make it tightest at n_opt observations, for every q.

    Args:
        n_opt: planned sample size, above 0.
        alpha: error, in (0, 1).
        sides: of the test.
    """
    return max(mixture_scale(n_opt, alpha, sides) - 1.0, 1e-3)


def log_above(
    successes: npt.ArrayLike, trials: npt.ArrayLike, threshold: npt.ArrayLike, prior_size: float
) -> FloatArray:
    """Log evidence that a proportion is above a threshold; a test martingale bound for every p <= threshold.

    A Beta prior with mean `threshold`, truncated to proportions above it, is mixed over the likelihood ratio against
    the threshold. Order-free; shapes broadcast.

    Args:
        successes: in [0, trials].
        trials: at least 0.
        threshold: in (0, 1).
        prior_size: the prior's weight in observations, above 0 (see `beta_prior_size`).

    Source:
        Howard et al. 2021, proposition 7 (one-sided beta-binomial mixture).
    """
    s, n, q = (np.asarray(v, dtype=np.float64) for v in (successes, trials, threshold))
    failures = n - s
    a, b = q * prior_size, (1.0 - q) * prior_size
    result: FloatArray = (
        log_incomplete_beta(b + failures, a + s, 1.0 - q)
        + special.betaln(a + s, b + failures)
        - log_incomplete_beta(b, a, 1.0 - q)
        - special.betaln(a, b)
        - special.xlogy(s, q)
        - special.xlog1py(failures, -q)
    )
    return result


def log_below(
    successes: npt.ArrayLike, trials: npt.ArrayLike, threshold: npt.ArrayLike, prior_size: float
) -> FloatArray:
    """Log evidence that a proportion is below a threshold: `log_above` of the failures.

    Args:
        successes: in [0, trials].
        trials: at least 0.
        threshold: in (0, 1).
        prior_size: the prior's weight in observations, above 0.
    """
    s, n, q = (np.asarray(v, dtype=np.float64) for v in (successes, trials, threshold))
    return log_above(n - s, n, 1.0 - q, prior_size)


def log_differs(
    successes: npt.ArrayLike, trials: npt.ArrayLike, threshold: npt.ArrayLike, prior_size: npt.ArrayLike
) -> FloatArray:
    """Log evidence that a proportion is not the threshold: the two-sided beta-binomial mixture.

    Args:
        successes: in [0, trials].
        trials: at least 0.
        threshold: in (0, 1).
        prior_size: the prior's weight in observations, above 0.
    """
    s, n, q = (np.asarray(v, dtype=np.float64) for v in (successes, trials, threshold))
    size = np.asarray(prior_size, dtype=np.float64)
    a, b = q * size, (1.0 - q) * size
    result: FloatArray = (
        special.betaln(a + s, b + n - s)
        - special.betaln(a, b)
        - special.xlogy(s, q)
        - special.xlog1py(n - s, -q)
    )
    return result


def beta_binomial_bound(
    v: float, *, alpha: float, v_opt: float, g: float, h: float, alpha_opt: float = 0.05, sides: Sides
) -> float:
    """Uniform boundary on a sum of centred increments in [-g, h] at intrinsic time v.

    Args:
        v: intrinsic time, g * h times the number of increments, above 0.
        alpha: error, in (0, 1).
        v_opt: intrinsic time at which to be tight.
        g: size of the largest fall, above 0.
        h: size of the largest rise, above 0.
        alpha_opt: error for which v_opt is optimal.
        sides: of the boundary.
    """
    threshold, trials = g / (g + h), v / (g * h)
    size = max(mixture_scale(v_opt, alpha_opt, sides) / (g * h) - 1.0, 1e-3)
    log_mixture = log_above if sides is Sides.ONE else log_differs

    def excess(s: float) -> float:
        successes = s / (g + h) + trials * threshold
        return float(log_mixture(successes, trials, threshold, size)) - math.log(1.0 / alpha)

    top = v / g
    return top if excess(top) < 0.0 else _root(excess, 0.0, top)


def normal_bound(v: float, *, alpha: float, v_opt: float, alpha_opt: float = 0.05, sides: Sides) -> float:
    """Uniform boundary on a sub-Gaussian sum at intrinsic time v, by the normal mixture.

    Args:
        v: intrinsic time, above 0.
        alpha: error, in (0, 1).
        v_opt: intrinsic time at which to be tight.
        alpha_opt: error for which v_opt is optimal.
        sides: of the boundary.
    """
    rho = mixture_scale(v_opt, alpha_opt, sides)
    if sides is Sides.TWO:
        return math.sqrt((v + rho) * (math.log1p(v / rho) + 2.0 * math.log(1.0 / alpha)))

    def excess(s: float) -> float:
        return (
            0.5 * math.log(4.0 * rho / (v + rho))
            + s * s / (2.0 * (v + rho))
            + float(special.log_ndtr(s / math.sqrt(v + rho)))
            - math.log(1.0 / alpha)
        )

    return _root(excess, 0.0, _bracket(excess, v))


def gamma_exponential_bound(
    v: float, *, alpha: float, v_opt: float, c: float, alpha_opt: float = 0.05
) -> float:
    """Uniform one-sided boundary on a sub-exponential sum with scale c at intrinsic time v.

    Args:
        v: intrinsic time, above 0.
        alpha: error, in (0, 1).
        v_opt: intrinsic time at which to be tight.
        c: scale; for empirical Bernstein the largest possible fall below the prediction, above 0.
        alpha_opt: error for which v_opt is optimal.
    """
    rho = mixture_scale(v_opt, alpha_opt, Sides.ONE)
    scaled = rho / (c * c)
    constant = (
        scaled * math.log(scaled)
        - special.gammaln(scaled)
        - math.log(float(special.gammainc(scaled, scaled)))
    )
    shape = (v + rho) / (c * c)

    def excess(s: float) -> float:
        rise = (c * s + v) / (c * c)
        return float(
            constant
            + special.gammaln(shape)
            + math.log(float(special.gammainc(shape, rise + scaled)))
            - shape * math.log(rise + scaled)
            + rise
            - math.log(1.0 / alpha)
        )

    return _root(excess, 0.0, _bracket(excess, v))


def _bracket(excess: Callable[[float], float], start: float) -> float:
    top = start
    for _ in range(200):
        if excess(top) > 0.0:
            return top
        top *= 2.0
    raise ArithmeticError(f"no boundary below {top}: alpha is too small for this mixture")


def _root(excess: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function crosses 0, to 12 digits; an answer at or above the crossing."""
    # Half of what SciPy takes to load: who only shows what was decided seldom comes here.
    from scipy import optimize

    found = float(optimize.brentq(excess, low, high, xtol=1e-13 * high, rtol=1e-13))
    return min(found + 3e-13 * high, high)
