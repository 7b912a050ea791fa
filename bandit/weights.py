"""From wished shares to epoch weights: floors, caps and a bounded change, so that exposure stays explainable."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What any weights of a bandit step must respect.

    Args:
        min_prob: floor of every candidate, in (0, 1): evidence keeps coming from every live arm.
        baseline_floor: floor of the baseline, in [0, 1): every claim is against it.
        max_weight: cap of a candidate, in (0, 1].
        max_change: largest factor, up or down, by which a candidate's weight changes in one epoch, above 1. The
            baseline takes the rest and has no such limit.
    """

    min_prob: float = 0.02
    baseline_floor: float = 0.10
    max_weight: float = 0.5
    max_change: float = 2.0

    def __post_init__(self) -> None:
        """Refuse limits that contradict each other."""
        if not 0.0 < self.min_prob <= self.max_weight <= 1.0:
            raise ValueError(
                f"minProb {self.min_prob} and maxWeight {self.max_weight} must satisfy 0 < minProb <= maxWeight <= 1"
            )
        if not 0.0 <= self.baseline_floor < 1.0:
            raise ValueError(f"baseline floor {self.baseline_floor} must be at least 0 and below 1")
        if not self.max_change > 1.0:
            raise ValueError(
                f"largest change {self.max_change} must be above 1: 2 lets a weight double in an epoch"
            )


DEFAULT_LIMITS: Final = Limits()


def limited_weights(
    wished: Mapping[str, float], *, baseline: str, limits: Limits, previous: Mapping[str, float]
) -> dict[str, float]:
    """Weights that respect all limits and are otherwise proportional to the wished shares.

    Shares that keep the limits come back as they are.

    Args:
        wished: share by arm, at least 0, with a positive sum; holds the baseline and all candidates.
        baseline: name of the baseline.
        limits: to respect.
        previous: weights of the epoch before; a candidate that is missing may rise to any weight up to twice its
            floor (a new arm starts small). Empty when there was no epoch: no change limit.

    Returns:
        Weight by arm in the order of `wished`, summing to 1.

    Raises:
        ValueError: when the floors do not fit, or nothing is wished.
    """
    candidates = [name for name in wished if name != baseline]
    floors = len(candidates) * limits.min_prob + limits.baseline_floor
    if baseline not in wished or floors > 1.0:
        raise ValueError(
            f"{len(candidates)} candidates at minProb {limits.min_prob} and a baseline floor of "
            f"{limits.baseline_floor} need {floors:g}, more than 1: lower minProb or run fewer candidates"
        )
    total = sum(wished.values())
    if not (total > 0.0 and min(wished.values()) >= 0.0):
        raise ValueError(f"wished shares {dict(wished)} must be at least 0 with a positive sum")
    low = dict.fromkeys(candidates, limits.min_prob) | {baseline: limits.baseline_floor}
    high = dict.fromkeys(candidates, limits.max_weight) | {baseline: 1.0}
    if previous:
        for name in candidates:
            before = max(previous.get(name, 0.0), limits.min_prob)
            high[name] = min(limits.max_weight, before * limits.max_change)
            low[name] = min(max(limits.min_prob, before / limits.max_change), high[name])
        if sum(low.values()) > 1.0:
            # Falling slowly must not starve the baseline: its floor comes first.
            low = dict.fromkeys(candidates, limits.min_prob) | {baseline: limits.baseline_floor}
    return _scaled({name: share / total for name, share in wished.items()}, low, high, rest=baseline)


def _scaled(
    shares: Mapping[str, float], low: Mapping[str, float], high: Mapping[str, float], *, rest: str
) -> dict[str, float]:
    """Shares times one factor, clipped to their bounds, with the factor for which they sum to 1."""

    def clipped(factor: float) -> dict[str, float]:
        return {name: min(max(share * factor, low[name]), high[name]) for name, share in shares.items()}

    under, over = 0.0, 1.0
    while sum(clipped(over).values()) < 1.0:
        over *= 2.0
        if over > 1e12:
            # The shares left to grow are 0: the arm without a cap takes the rest.
            break
    for _ in range(100):
        middle = 0.5 * (under + over)
        if sum(clipped(middle).values()) < 1.0:
            under = middle
        else:
            over = middle
    weights = clipped(under)
    weights[rest] += 1.0 - sum(weights.values())
    return weights
