"""The count engine: a difference of two arms' means tested from cumulative counts alone, whatever their order.

Evidence that variant - baseline > -margin is

    E = min over q of  M_above(variant, q - margin) * M_below(baseline, q),

a minimum of e-processes of which one is true under the null: at the baseline's true mean. Each factor is an e-process
of one arm, and a request feeds one arm only, so that the product is one under any adaptive allocation.

It needs each arm's mean to be constant over the run, which traffic does not promise: so it is shown beside a decision,
it never makes one, and it is called quiet only while `drift` has not found the arms moving. What it is good for:
anyone can recompute it from four numbers, late and shuffled outcomes change nothing, and it needs no memory.

Source:
    Howard et al. 2021, proposition 7 for binary metrics; Waudby-Smith, Ramdas (JRSS B 2024), theorem 3 for bounded ones.
    The minimum over the nuisance mean is that of Howard, Ramdas (Bernoulli 2022), theorem 5, for means.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anabranch.bandit.betting import Claim
from anabranch.bandit.fixed_stakes import STAKES
from anabranch.bandit.mixtures import Sides, beta_prior_size, log_above, log_below
from anabranch.bandit.scales import (
    BINARY,
    BinaryScale,
    BoundedScale,
    FloatArray,
    Histogram,
    total_of,
    unit_arrays,
)

_Evidence = Callable[[FloatArray], FloatArray]

# What the search for the minimum may give away: this many nats, and this share of the evidence. It invents none.
_SLACK_NATS, _SLACK_SHARE = 1e-3, 5e-3
_EDGE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class CountContrast:
    """An e-process on the difference variant - baseline of a bounded metric, from cumulative counts.

    Args:
        claim: what large evidence says.
        scale: of the metric; higher is better.
        margin: tolerated deficit, in the metric's unit, at least 0; 0 for SUPERIORITY.
        planned_count: outcomes of an arm at which the test of a binary metric is tuned; fixed before the data.
        alpha: error for which it is tuned.
    """

    claim: Claim
    scale: BoundedScale = BINARY
    margin: float = 0.0
    planned_count: float = 5_000.0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse a margin that contradicts the claim or the scale."""
        width = self.scale.high - self.scale.low
        if not 0.0 <= self.margin < width:
            raise ValueError(f"margin {self.margin} must be at least 0 and below the scale's width {width}")
        if self.claim is Claim.SUPERIORITY and self.margin != 0.0:
            raise ValueError(
                f"margin {self.margin} given with a superiority claim: leave it 0 or claim non-inferiority"
            )
        beta_prior_size(self.planned_count, self.alpha, Sides.ONE)

    def log_e(self, variant: Histogram, baseline: Histogram) -> float:
        """Log evidence for the claim; it would be decided at error alpha at ln(1/alpha).

        Args:
            variant: all its outcomes so far.
            baseline: all its outcomes so far, from the same epochs.
        """
        margin = self.margin / (self.scale.high - self.scale.low)
        if self.claim is Claim.HARM:
            # The baseline is above the variant by more than the margin.
            return self._log_above(baseline, variant, margin)
        return self._log_above(variant, baseline, -margin)

    def _log_above(self, upper: Histogram, lower: Histogram, gap: float) -> float:
        """Log evidence that upper - lower > gap: for every q, upper > q + gap or lower < q."""
        if not (total_of(upper) and total_of(lower)):
            return 0.0
        rises = _evidence_above(self.scale, upper, self.planned_count, self.alpha)
        falls = _evidence_below(self.scale, lower, self.planned_count, self.alpha)
        least, most = max(0.0, -gap), min(1.0, 1.0 - gap)
        return _least_sum(rises=lambda q: falls(q), falls=lambda q: rises(q + gap), low=least, high=most)


def difference_interval(
    scale: BoundedScale,
    variant: Histogram,
    baseline: Histogram,
    *,
    alpha: float,
    planned_count: float = 5_000.0,
) -> tuple[float, float]:
    """A confidence sequence for variant - baseline while both means are constant, in the metric's unit.

    The differences that neither one-sided count contrast has refuted at alpha / 2.

    Args:
        scale: of the metric.
        variant: all its outcomes so far.
        baseline: all its outcomes so far.
        alpha: error, in (0, 1).
        planned_count: outcomes of an arm at which the interval of a binary metric is tightest.
    """
    width = scale.high - scale.low
    if not (total_of(variant) and total_of(baseline)):
        return -width, width
    limit = math.log(2.0 / alpha)
    test = CountContrast(claim=Claim.SUPERIORITY, scale=scale, planned_count=planned_count, alpha=alpha / 2.0)
    centre = _mean(scale, variant) - _mean(scale, baseline)

    few = min(total_of(variant), total_of(baseline))

    def edge(sign: float, upper: Histogram, lower: Histogram) -> float:
        near, far, room = 0.0, 1.0 / math.sqrt(few), 1.0 - sign * centre
        while far < room and test._log_above(upper, lower, -sign * centre - far) < limit:
            near, far = far, 2.0 * far
        far = min(far, room)
        while far - near > 1e-3 * far:
            middle = 0.5 * (near + far)
            if test._log_above(upper, lower, -sign * centre - middle) < limit:
                near = middle
            else:
                far = middle
        return centre + sign * far

    return edge(-1.0, variant, baseline) * width, edge(1.0, baseline, variant) * width


def _mean(scale: BoundedScale, histogram: Histogram) -> float:
    values, counts = unit_arrays(scale, histogram)
    return float(values @ counts) / float(counts.sum())


def _evidence_above(scale: BoundedScale, counts: Histogram, planned_count: float, alpha: float) -> _Evidence:
    """Log evidence that an arm's mean is above q, falling in q."""
    if isinstance(scale, BinaryScale):
        size = beta_prior_size(planned_count, alpha, Sides.ONE)
        successes, trials = counts.get(1, 0), total_of(counts)
        return lambda q: log_above(successes, trials, np.clip(q, _EDGE, 1.0 - _EDGE), size)
    values, often = unit_arrays(scale, counts)
    return lambda q: _log_hedged(values[:, None] / np.maximum(q, _EDGE) - 1.0, often)


def _evidence_below(scale: BoundedScale, counts: Histogram, planned_count: float, alpha: float) -> _Evidence:
    """Log evidence that an arm's mean is below q, rising in q."""
    if isinstance(scale, BinaryScale):
        size = beta_prior_size(planned_count, alpha, Sides.ONE)
        successes, trials = counts.get(1, 0), total_of(counts)
        return lambda q: log_below(successes, trials, np.clip(q, _EDGE, 1.0 - _EDGE), size)
    values, often = unit_arrays(scale, counts)
    return lambda q: _log_hedged((1.0 - values)[:, None] / np.maximum(1.0 - q, _EDGE) - 1.0, often)


def _log_hedged(gains: FloatArray, counts: FloatArray) -> FloatArray:
    """Log wealth of fixed stakes for many candidates at once; gains have shape (values, candidates)."""
    by_stake = np.einsum("v,svc->sc", counts, np.log1p(STAKES[:, None, None] * gains))
    top = by_stake.max(axis=0)
    result: FloatArray = top + np.log(np.exp(by_stake - top).mean(axis=0))
    return result


def _least_sum(*, rises: _Evidence, falls: _Evidence, low: float, high: float) -> float:
    """At most the minimum of the sum of a rising and a falling function on an interval, and within a slack of it.

    On a stretch [a, b] the sum is at least rises(a) + falls(b): stretches whose bound is above what was found
    elsewhere are dropped, the others are cut until bound and value meet.
    """
    points = np.linspace(low, high, 33)
    up, down = rises(points), falls(points)
    best, given_away = float((up + down).min()), math.inf
    left, right = (points[:-1], up[:-1]), (points[1:], down[1:])
    while True:
        bounds = left[1] + right[1]
        kept = bounds < best - _SLACK_NATS - _SLACK_SHARE * abs(best)
        if not kept.any() or float((right[0] - left[0]).max()) < 1e-14:
            return min(best, given_away, float(bounds.min(initial=math.inf)))
        given_away = min(given_away, float(bounds[~kept].min(initial=math.inf)))
        begin, end = left[0][kept], right[0][kept]
        cuts = begin[:, None] + (end - begin)[:, None] * np.arange(9) / 8.0
        up, down = rises(cuts.ravel()).reshape(cuts.shape), falls(cuts.ravel()).reshape(cuts.shape)
        best = min(best, float((up + down).min()))
        left = (cuts[:, :-1].ravel(), up[:, :-1].ravel())
        right = (cuts[:, 1:].ravel(), down[:, 1:].ravel())
