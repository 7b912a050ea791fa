"""Quantiles from log-bucket counts: estimates, confidence sequences, and a test of the ratio between two arms.

Counts at the borders of a LogScale are exact, so everything here is exactly valid, at any look, with no asymptotics:
what the buckets round is the claim (to a power of gamma, against the claim), never the error.

The tests need each arm's outcomes to be exchangeable over the run (one load, no drift). Where that is in doubt,
`threshold_counts` turns the same question into a ContrastTest that only trusts the router's coin.

Source:
    Howard, Ramdas: Sequential estimation of quantiles with applications to A/B testing and best-arm identification
    (Bernoulli 2022), theorems 1 and 5; theorem 5 generalised to one-sided claims about a ratio.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from anabranch.bandit.mixtures import Sides, beta_prior_size, log_above, log_below, log_differs
from anabranch.bandit.scales import LATENCY_SCALE, Histogram, IntArray, LogScale, checked, total_of


class RatioClaim(StrEnum):
    """What large evidence says about the variant's quantile against the baseline's."""

    BELOW = "below"  # variant < ratio * baseline: refutes variant >= ratio * baseline
    ABOVE = "above"  # variant > ratio * baseline: refutes variant <= ratio * baseline


def counts_at_or_below(scale: LogScale, histogram: Histogram) -> IntArray:
    """How many values lie at or below each finite border, shape (bins - 1,)."""
    counts = np.zeros(scale.bins, dtype=np.int64)
    if checked(scale, histogram):
        counts[list(histogram)] = list(histogram.values())
    return np.cumsum(counts)[:-1]


def quantile(scale: LogScale, histogram: Histogram, tau: float) -> float | None:
    """The empirical tau-quantile: the value of the bucket that holds the order statistic ceil(tau * n).

    Args:
        scale: of the metric.
        histogram: counts by bin.
        tau: in (0, 1).

    Returns:
        Within the bucket's relative width of the sample quantile; +inf when it is a timeout; None without data.
    """
    _check_tau(tau)
    total = total_of(checked(scale, histogram))
    if total == 0:
        return None
    rank, seen = max(math.ceil(tau * total - 1e-9), 1), 0
    for index in sorted(histogram):
        seen += histogram[index]
        if seen >= rank:
            return scale.value_of(index)
    raise AssertionError("ranks are at most the total")


def quantile_interval(
    scale: LogScale, histogram: Histogram, tau: float, *, alpha: float, planned_count: float = 10_000.0
) -> tuple[float, float]:
    """A confidence sequence for the tau-quantile: covers at all times at once with probability 1 - alpha.

    Args:
        scale: of the metric.
        histogram: counts by bin.
        tau: in (0, 1).
        alpha: error, in (0, 1).
        planned_count: number of values at which the interval is tightest; fixed before the data.

    Returns:
        (low, high): bucket borders, low <= quantile <= high; 0 and +inf where nothing is excluded.

    Source:
        Howard, Ramdas 2022, theorem 1 with the beta-binomial mixture.
    """
    _check_tau(tau)
    below = counts_at_or_below(scale, histogram)
    total = total_of(histogram)
    size = beta_prior_size(planned_count, alpha, Sides.TWO)
    # Most buckets are empty: borders with the same count below them are decided alike.
    different, which = np.unique(below, return_inverse=True)
    inside = (log_differs(different, total, tau, size) < math.log(1.0 / alpha))[which]
    share = below / total if total else np.full(below.shape, tau)
    # A border excluded from below lies under the quantile; one excluded from above lies at or over it.
    under = np.flatnonzero(~inside & (share < tau))
    over = np.flatnonzero(~inside & (share > tau))
    low = scale.borders[int(under[-1])] if under.size else 0.0
    high = scale.borders[int(over[0])] if over.size else math.inf
    return low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileState:
    """Where a QuantileRatioTest stands: both arms' counts by bin, as sorted (bin, count) pairs."""

    variant: tuple[tuple[int, int], ...] = ()
    baseline: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileRatioTest:
    """An e-process on the ratio of two arms' tau-quantiles, from their cumulative histograms.

    For BELOW the evidence is

        E = min over x of  M_above(share of the variant below ratio * x, tau) * M_below(share of the baseline at x, tau),

    a minimum of e-processes of which one is true under the null: at the true quantile of the baseline. x runs over
    all positive numbers: inside a bucket the factors are bounded by the bucket's two borders, so that the claim holds
    for the latencies themselves and not only for their buckets. ABOVE is BELOW with the arms swapped.

    Order-free: segments and replicas merge by addition.

    Args:
        claim: which side of the ratio large evidence is for.
        tau: which quantile, in (0, 1).
        ratio: above 0; rounded to a power of gamma against the claim (see `tested_ratio`).
        scale: of the metric.
        planned_count: the variant's outcomes at which the test is tuned; fixed before the data.
        planned_count_baseline: the baseline's; None: as many as the variant's.
        alpha: error for which it is tuned.
    """

    claim: RatioClaim
    tau: float
    ratio: float = 1.0
    scale: LogScale = LATENCY_SCALE
    planned_count: float = 2_000.0
    planned_count_baseline: float | None = None
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse impossible quantiles and ratios."""
        _check_tau(self.tau)
        if not 0.0 < self.ratio < math.inf:
            raise ValueError(f"ratio {self.ratio} must be positive and finite: 1.05 tolerates 5 % more")
        for planned in (self.planned_count, self._planned_baseline):
            if not planned > 0.0:
                raise ValueError(f"planned count {planned} must be positive")
            beta_prior_size(planned, self.alpha, Sides.ONE)

    @property
    def _planned_baseline(self) -> float:
        return self.planned_count if self.planned_count_baseline is None else self.planned_count_baseline

    @property
    def _shift(self) -> int:
        """The ratio in buckets, rounded so that the claim gets harder."""
        buckets = math.log(self.ratio) / math.log(self.scale.gamma)
        return math.floor(buckets + 1e-9) if self.claim is RatioClaim.BELOW else math.ceil(buckets - 1e-9)

    @property
    def tested_ratio(self) -> float:
        """The ratio that is really tested: a power of gamma, at most `ratio` for BELOW, at least `ratio` for ABOVE."""
        return float(self.scale.gamma**self._shift)

    def start(self) -> QuantileState:
        """The state before any data: log_e is at most 0."""
        return QuantileState()

    def advance(self, state: QuantileState, variant: Histogram, baseline: Histogram) -> QuantileState:
        """The state with a segment's counts added.

        Raises:
            ValueError: when a bin is not on the scale.
        """
        return QuantileState(
            variant=_plus(state.variant, checked(self.scale, variant)),
            baseline=_plus(state.baseline, checked(self.scale, baseline)),
        )

    def log_e(self, state: QuantileState, *, at_most: float = math.inf) -> float:
        """Log evidence for the claim; decided at error alpha when it reaches ln(1/alpha).

        Args:
            state: what was seen.
            at_most: the answer where the evidence is larger: where less is asked, less is searched.
        """
        variant = _Side(counts=dict(state.variant), planned_count=self.planned_count)
        baseline = _Side(counts=dict(state.baseline), planned_count=self._planned_baseline)
        if self.claim is RatioClaim.BELOW:
            return self._log_faster(variant, baseline, self._shift, at_most)
        return self._log_faster(baseline, variant, -self._shift, at_most)

    def estimate(self, state: QuantileState) -> float | None:
        """The ratio of the empirical quantiles; None without data in both arms or when the baseline's is infinite."""
        variant = quantile(self.scale, dict(state.variant), self.tau)
        baseline = quantile(self.scale, dict(state.baseline), self.tau)
        if variant is None or baseline is None or math.isinf(baseline):
            return None
        return variant / baseline

    def _log_faster(self, faster: "_Side", slower: "_Side", shift: int, at_most: float) -> float:
        """Log evidence that the first quantile is below the second times gamma^shift.

        The sum of log_above(faster) and log_below(slower) has its minimum over buckets to be found. The first term
        never falls from bucket to bucket and the second never rises, so the two ends of a stretch of buckets bound what
        is inside: only stretches that may hold the minimum are refined.
        """
        below_fast = np.concatenate(([0], counts_at_or_below(self.scale, faster.counts)))
        below_slow = np.concatenate(
            (counts_at_or_below(self.scale, slower.counts), [total_of(slower.counts)])
        )
        # Bucket k of the slower arm is (border k-1, border k]; times gamma^shift it begins at border k-1+shift.
        begin = np.clip(np.arange(self.scale.bins) + shift, 0, self.scale.bins - 1)
        begin[0] = 0  # the lowest bucket begins at 0, and so does its multiple
        fast = below_fast[begin]
        fresh = np.concatenate(([True], (np.diff(fast) > 0) | (np.diff(below_slow) > 0)))
        fast, slow = fast[fresh], below_slow[fresh]
        size_fast = beta_prior_size(faster.planned_count, self.alpha, Sides.ONE)
        size_slow = beta_prior_size(slower.planned_count, self.alpha, Sides.ONE)
        points = np.unique(np.linspace(0, fast.size - 1, min(fast.size, 17)).astype(np.int64))[None, :]
        best = at_most
        while True:
            rising = log_above(fast[points], total_of(faster.counts), self.tau, size_fast)
            falling = log_below(slow[points], total_of(slower.counts), self.tau, size_slow)
            best = min(best, float((rising + falling).min()))
            left, right = points[:, :-1], points[:, 1:]
            unsettled = (right - left > 1) & (rising[:, :-1] + falling[:, 1:] < best)
            if not unsettled.any():
                return best
            left, right = left[unsettled], right[unsettled]
            points = left[:, None] + (right - left)[:, None] * np.arange(9) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One arm in a ratio test."""

    counts: Histogram
    planned_count: float


def threshold_counts(scale: LogScale, histogram: Histogram, border: int) -> dict[int, int]:
    """A latency histogram as a binary one: 1 is "at or below the border", higher is better.

    With a border chosen from earlier epochs (for a ratio claim the baseline's quantile, and the variant's border
    `shift` bins away) a ContrastTest on these counts is a quantile test that stays valid under drift.

    Args:
        scale: of the metric.
        histogram: counts by bin.
        border: bin whose upper border is the threshold; not the last one.
    """
    if not 0 <= border < scale.bins - 1:
        raise ValueError(f"border {border} must be a bin with a finite upper border: 0 to {scale.bins - 2}")
    total = total_of(checked(scale, histogram))
    within = sum(count for index, count in histogram.items() if index <= border)
    return {0: total - within, 1: within}


def _plus(counts: tuple[tuple[int, int], ...], segment: Histogram) -> tuple[tuple[int, int], ...]:
    total = dict(counts)
    for index, count in segment.items():
        if count:
            total[index] = total.get(index, 0) + count
    return tuple(sorted(total.items()))


def _check_tau(tau: float) -> None:
    if not 0.0 < tau < 1.0:
        raise ValueError(f"quantile {tau} must be strictly between 0 and 1: p99 is 0.99")
