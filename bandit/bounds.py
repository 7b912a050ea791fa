"""How long must it take? Information lower bounds, and from them the planned number of requests.

No test of error alpha that always ends can, on average, end before ln(1/alpha) / rate observations, where `rate` is
the least information per observation, in nats, between the truth and a world in which the claim is false. The tests
of this package need a little more; `planned_requests` says how much.

Source:
    Garivier, Kaufmann: Optimal best arm identification with fixed confidence (COLT 2016), theorem 1; Kaufmann, Cappé,
    Garivier (JMLR 2016) for two arms.
"""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum

import numpy as np

from anabranch.bandit.scales import FloatArray
from anabranch.bandit.wealth import growth_optimal

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Method(StrEnum):
    """Which test of this package a plan is for."""

    BETTING = "betting"  # with a plan that is true
    UNPLANNED_BETTING = "unplanned-betting"  # with the default plan of a test for harm or superiority
    QUANTILE = "quantile"


# Nats on top of ln(1/alpha) that stopping takes on average, measured in simulation.
OVERHEAD_NATS = {Method.BETTING: 0.6, Method.UNPLANNED_BETTING: 1.8, Method.QUANTILE: 2.2}


def bernoulli_kl(p: float, q: float) -> float:
    """Kullback-Leibler divergence of Bernoulli(p) from Bernoulli(q), in nats; +inf where q excludes what p allows."""
    result = 0.0
    for a, b in ((p, q), (1.0 - p, 1.0 - q)):
        if a > 0.0:
            if b <= 0.0:
                return math.inf
            result += a * math.log(a / b)
    return result


def contrast_rate(*, p_v: float, p_c: float, margin: float, pi_v: float, pi_c: float) -> float:
    """Information per request about "variant - baseline is not -margin", for a binary metric in a split.

    Serves non-inferiority (p_v > p_c - margin), superiority (margin 0) and harm (p_v < p_c - margin) alike.

    Args:
        p_v: the variant's true rate, in [0, 1].
        p_c: the baseline's true rate, in [0, 1].
        margin: tolerated deficit, in [0, 1).
        pi_v: the variant's weight, in (0, 1).
        pi_c: the baseline's weight, in (0, 1).

    Returns:
        Nats per request; 0 when the rates lie exactly at the margin.

    Source:
        min over q of pi_v kl(p_v, q - margin) + pi_c kl(p_c, q).
    """
    if not (0.0 <= p_v <= 1.0 and 0.0 <= p_c <= 1.0 and 0.0 <= margin < 1.0):
        raise ValueError(f"rates {p_v}, {p_c} must lie in [0, 1] and margin {margin} in [0, 1)")
    if not (pi_v > 0.0 and pi_c > 0.0 and pi_v + pi_c <= 1.0 + 1e-9):
        raise ValueError(f"weights {pi_v}, {pi_c} must be positive with a sum of at most 1")
    low, high = sorted((min(max(p_v + margin, margin), 1.0), p_c))
    return _least(lambda q: pi_v * bernoulli_kl(p_v, q - margin) + pi_c * bernoulli_kl(p_c, q), low, high)


def paired_rate(*, discordance: float, effect: float, margin: float) -> float:
    """Information per mirrored pair about "the mean difference is not -margin", for binary outcomes.

    Args:
        discordance: share of pairs whose outcomes differ, in (0, 1].
        effect: true mean difference variant - baseline, |effect| <= discordance.
        margin: tolerated deficit, in [0, 1).

    Returns:
        Nats per pair.

    Source:
        The dual of the projection on a mean constraint: max over l of E ln(1 + l (d + margin)).
    """
    if not abs(effect) <= discordance <= 1.0 or discordance <= 0.0:
        raise ValueError(
            f"discordance {discordance} must lie in (0, 1] and be at least the effect's size {abs(effect)}"
        )
    sign = 1.0 if effect + margin >= 0.0 else -1.0
    outcomes = [
        (sign * (margin - 1.0), (discordance - effect) / 2.0),
        (sign * margin, 1.0 - discordance),
        (sign * (margin + 1.0), (discordance + effect) / 2.0),
    ]
    stake = growth_optimal(outcomes, 1.0 - sign * margin)
    return max(sum(p * math.log1p(stake * gain) for gain, p in outcomes), 0.0)


def quantile_rate(*, below_v: FloatArray, below_c: FloatArray, tau: float, pi_v: float, pi_c: float) -> float:
    """Information per request about "the variant's tau-quantile is not below ratio times the baseline's".

    Args:
        below_v: the variant's distribution function at ratio * x, for ascending x, shape (k,).
        below_c: the baseline's distribution function at x, shape (k,).
        tau: in (0, 1).
        pi_v: the variant's weight, in (0, 1).
        pi_c: the baseline's weight, in (0, 1).

    Returns:
        Nats per request; 0 when the claim is false.

    Source:
        min over x of pi_v kl+(F_v(ratio x), tau) + pi_c kl-(F_c(x), tau).
    """
    return min(
        pi_v * (bernoulli_kl(v, tau) if v > tau else 0.0) + pi_c * (bernoulli_kl(c, tau) if c < tau else 0.0)
        for v, c in zip(np.asarray(below_v).tolist(), np.asarray(below_c).tolist(), strict=True)
    )


def lower_bound(rate: float, *, alpha: float) -> float:
    """The least possible mean number of observations of a test with error alpha; +inf when the rate is 0.

    Args:
        rate: nats per observation, at least 0.
        alpha: error, in (0, 1).
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha {alpha} must be strictly between 0 and 1: 0.05 is usual")
    return math.log(1.0 / alpha) / rate if rate > 0.0 else math.inf


def planned_requests(
    rate: float, *, alpha: float, candidates: int = 1, method: Method = Method.BETTING
) -> float:
    """The expected number of observations until a true plan is decided.

    Args:
        rate: nats per observation, from one of the functions above.
        alpha: error of the whole experiment, in (0, 1).
        candidates: over how many candidates it is split, at least 1.
        method: of the test.

    Returns:
        +inf when the rate is 0.
    """
    if candidates < 1:
        raise ValueError(f"{candidates} candidates given, at least 1 is needed")
    share = lower_bound(rate, alpha=alpha / candidates)
    return share * (1.0 + OVERHEAD_NATS[method] / math.log(candidates / alpha))


def remaining_requests(rate: float, *, log_e: float, log_need: float) -> float:
    """About how many more observations a running test needs: for "decides in about ...".

    Args:
        rate: nats per observation at the current estimates, at least 0.
        log_e: evidence so far, in nats; negative evidence has to be made up for.
        log_need: evidence at which the test decides, in nats.

    Returns:
        0 when decided, +inf when the rate is 0.
    """
    missing = max(log_need - log_e, 0.0)
    if missing == 0.0:
        return 0.0
    return missing / rate if rate > 0.0 else math.inf


def best_arm_shares(means: Sequence[float]) -> tuple[FloatArray, float]:
    """The shares that identify the best of several Bernoulli arms soonest, and their characteristic time.

    Args:
        means: in (0, 1), with a unique largest one.

    Returns:
        Shares by arm, shape (arms,), and T*: at least T* ln(1/delta) requests are needed on average, asymptotically.

    Source:
        Garivier, Kaufmann 2016, theorem 5 and lemma 4.
    """
    order = sorted(range(len(means)), key=lambda index: -means[index])
    if len(means) < 2 or means[order[0]] <= means[order[1]] or not all(0.0 < mean < 1.0 for mean in means):
        raise ValueError(f"means {list(means)} must be two or more in (0, 1) with a unique largest one")
    best = means[order[0]]
    rest = [means[index] for index in order[1:]]

    def middle(x: float, mean: float) -> float:
        return (best + x * mean) / (1.0 + x)

    def cost(x: float, mean: float) -> float:
        m = middle(x, mean)
        return bernoulli_kl(best, m) + x * bernoulli_kl(mean, m)

    def ratios(y: float) -> list[float]:
        result = []
        for mean in rest:
            top = 1.0
            while cost(top, mean) < y:
                top *= 2.0
            result.append(_bisect(lambda x, mean=mean: cost(x, mean) - y, 0.0, top))  # type: ignore[misc]  # bound now
        return result

    def balance(y: float) -> float:
        return sum(
            bernoulli_kl(best, middle(x, mean)) / bernoulli_kl(mean, middle(x, mean))
            for x, mean in zip(ratios(y), rest, strict=True)
        )

    limit = min(bernoulli_kl(best, mean) for mean in rest)
    y = _bisect(lambda value: balance(value) - 1.0, 0.0, limit * (1.0 - 1e-12))
    x = [1.0, *ratios(y)]
    shares = np.zeros(len(means))
    shares[order] = np.array(x) / sum(x)
    return shares, sum(x) / y


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """The least value of a convex function on an interval, by golden section."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(100):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return min(at_left, at_right)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function crosses 0."""
    for _ in range(100):
        middle = 0.5 * (low + high)
        if function(middle) < 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
