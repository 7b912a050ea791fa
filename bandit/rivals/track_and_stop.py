"""Track-and-stop for the best of several Bernoulli arms: the optimal shares are solved for and tracked.

Our own implementation, in many runs at once, with shares that are solved anew once an epoch. It is the yardstick for
an allocation: asymptotically no rule stops earlier.

Source:
    Garivier, Kaufmann: Optimal best arm identification with fixed confidence (COLT 2016), theorem 5 for the shares,
    section 3.1 for the forced exploration, equation 8 for the ratio, threshold ln((ln t + 1) / delta) as in the
    paper's experiments.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from anabranch.bandit.scales import FloatArray, IntArray

_BISECTIONS = 45


def kl(p: FloatArray, q: FloatArray) -> FloatArray:
    """Bernoulli divergence, elementwise, of rates inside (0, 1)."""
    result: FloatArray = special.rel_entr(p, q) + special.rel_entr(1.0 - p, 1.0 - q)
    return result


def optimal_shares(means: FloatArray) -> FloatArray:
    """The shares that identify the best arm soonest, for every run.

    Args:
        means: shape (runs, arms), inside (0, 1); ties are broken by a hair.

    Returns:
        Shape (runs, arms).
    """
    runs = means.shape[0]
    order = np.argsort(-means, axis=1, kind="stable")
    ranked = np.take_along_axis(means, order, axis=1)
    best, rest = ranked[:, :1], np.minimum(ranked[:, 1:], ranked[:, :1] - 1e-4)
    rest = np.clip(rest, 1e-4, None)
    best = np.clip(best, 2e-4, 1.0 - 1e-4)
    low, high = np.zeros((runs, 1)), kl(best, rest).min(axis=1, keepdims=True) * (1.0 - 1e-9)
    for _ in range(_BISECTIONS):
        y = 0.5 * (low + high)
        x = _weights_at(best, rest, y)
        middle = (best + x * rest) / (1.0 + x)
        balance = (kl(best, middle) / np.maximum(kl(rest, middle), 1e-300)).sum(axis=1, keepdims=True)
        under = balance < 1.0
        low, high = np.where(under, y, low), np.where(under, high, y)
    x = np.concatenate((np.ones((runs, 1)), _weights_at(best, rest, 0.5 * (low + high))), axis=1)
    shares = np.empty_like(means)
    np.put_along_axis(shares, order, x / x.sum(axis=1, keepdims=True), axis=1)
    return shares


def _weights_at(best: FloatArray, rest: FloatArray, y: FloatArray) -> FloatArray:
    """For each rival the weight, relative to the best arm's, at which their contrast costs y; by bisection of ln x."""
    low, high = np.full(rest.shape, -12.0), np.full(rest.shape, 12.0)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        x = np.exp(middle)
        mean = (best + x * rest) / (1.0 + x)
        under = kl(best, mean) + x * kl(rest, mean) < y
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    result: FloatArray = np.exp(0.5 * (low + high))
    return result


def least_ratio(good: FloatArray, seen: FloatArray) -> tuple[FloatArray, IntArray]:
    """The smallest likelihood ratio of the empirical leader against a rival, and the leader, for every run."""
    runs = np.arange(good.shape[0])
    means = np.clip(good / np.maximum(seen, 1.0), 1e-9, 1.0 - 1e-9)
    leader = means.argmax(axis=1)
    top, size = means[runs, leader][:, None], seen[runs, leader][:, None]
    middle = (top * size + means * seen) / np.maximum(size + seen, 1.0)
    ratios = size * kl(np.broadcast_to(top, middle.shape), middle) + seen * kl(means, middle)
    ratios[runs, leader] = np.inf
    return ratios.min(axis=1), leader.astype(np.int64)


def threshold(requests: float, delta: float) -> float:
    """What the smallest ratio must exceed."""
    return float(np.log((np.log(max(requests, 1.0)) + 1.0) / delta))


def tracked_counts(seen: FloatArray, shares: FloatArray, size: int) -> IntArray:
    """How the next epoch's requests are spread so that counts approach the shares, with forced exploration.

    Args:
        seen: so far, shape (runs, arms).
        shares: wanted, shape (runs, arms).
        size: requests of the epoch.
    """
    arms = seen.shape[1]
    after = seen.sum(axis=1, keepdims=True) + size
    floor = np.maximum(np.sqrt(after) - arms / 2.0, 0.0)
    missing = np.maximum(np.maximum(shares * after, floor) - seen, 0.0)
    wanted = missing / np.maximum(missing.sum(axis=1, keepdims=True), 1e-12) * size
    whole = np.floor(wanted)
    left = size - whole.sum(axis=1, keepdims=True)
    rank = np.argsort(np.argsort(whole - wanted, axis=1, kind="stable"), axis=1, kind="stable")
    result: IntArray = (whole + (rank < left)).astype(np.int64)
    return result
