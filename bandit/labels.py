"""Labels that come late: closed cohorts with unknowns bounded, and an early warning that needs no waiting.

What is labelled so far is biased when the delay depends on the label or when the arms differ in age: errors are often
seen before successes. So a request enters a test when its label window closes, in the order of entry, whether its
label came or not. A label that never came is set against the claim: as the worst value in the arm that the claim
favours and as the best in the other. That keeps a claim valid however labels get lost, and costs power in
proportion to what is lost.

`arrival_interval` compares what has arrived so far, without waiting: it warns, and decides nothing.

Source:
    Lindon, Kallus (arXiv 2603.25971) for the sequence on cumulative arrivals; worst-case bounds as in Manski
    (American Economic Review 1990).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from anabranch.bandit.betting import Claim, EpochCell
from anabranch.bandit.evidence import add_histograms
from anabranch.bandit.scales import BoundedScale, Histogram, total_of, unit_arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Requests of one arm that entered in one stretch of one epoch, and the labels that came for them.

    Args:
        epoch: of the assignment.
        variant: that the requests were assigned to.
        entered_s: end of the stretch in which they entered, in seconds since 1970.
        requests: how many entered, labelled or not.
        labels: histogram of the labels that came within the window.
    """

    epoch: int
    variant: str
    entered_s: float
    requests: int
    labels: Histogram

    def __post_init__(self) -> None:
        """Refuse more labels than requests."""
        if total_of(self.labels) > self.requests:
            raise ValueError(
                f"{total_of(self.labels)} labels for {self.requests} requests of {self.variant}: "
                "count each request once, and only its first label"
            )

    @property
    def unknown(self) -> int:
        """Requests without a label."""
        return self.requests - total_of(self.labels)


def closed(cohorts: Iterable[Cohort], *, now: float, window_s: float) -> tuple[Cohort, ...]:
    """The cohorts whose label window is over, in the order of entry: what may enter a test.

    Args:
        cohorts: of any arms and epochs.
        now: seconds since 1970.
        window_s: how long a label is waited for, at least 0; the same for all arms.
    """
    found = [cohort for cohort in cohorts if cohort.entered_s + window_s <= now]
    return tuple(sorted(found, key=lambda cohort: (cohort.entered_s, cohort.epoch, cohort.variant)))


def with_unknown(scale: BoundedScale, labels: Histogram, unknown: int, *, with_best: bool) -> Histogram:
    """Labels and, at an end of the scale, those that are not known.

    Args:
        scale: of the metric, higher is better.
        labels: that are known.
        unknown: how many are not, at least 0.
        with_best: whether unknown labels count as the best value instead of the worst.
    """
    return add_histograms([labels, {scale.bins - 1 if with_best else 0: unknown}]) if unknown else labels


def filled(scale: BoundedScale, cohort: Cohort, *, with_best: bool) -> dict[int, int]:
    """The cohort's labels with every unknown one set to an end of the scale.

    Args:
        scale: of the metric, higher is better.
        cohort: whose labels.
        with_best: whether unknown labels count as the best value instead of the worst.
    """
    return dict(with_unknown(scale, cohort.labels, cohort.unknown, with_best=with_best))


def closed_segment(
    scale: BoundedScale,
    cohorts: Iterable[Cohort],
    weights: Mapping[int, Mapping[str, float]],
    *,
    variant: str,
    baseline: str,
    claim: Claim,
) -> list[EpochCell]:
    """A segment of closed cohorts for a ContrastTest, with unknown labels set against its claim.

    Args:
        scale: of the metric, higher is better.
        cohorts: closed ones that no earlier segment held.
        weights: by epoch the propensity of every arm.
        variant: the arm that the claim is about.
        baseline: the arm it is compared with.
        claim: of the test; HARM takes unknown labels as good for the variant, the others as bad.
    """
    harm = claim is Claim.HARM
    by_epoch: dict[int, list[Cohort]] = {}
    for cohort in cohorts:
        by_epoch.setdefault(cohort.epoch, []).append(cohort)
    cells = []
    for epoch, group in sorted(by_epoch.items()):
        shares = weights.get(epoch, {})
        pi_v, pi_c = shares.get(variant, 0.0), shares.get(baseline, 0.0)
        if not (pi_v > 0.0 and pi_c > 0.0):
            continue
        cells.append(
            EpochCell(
                pi_v=pi_v,
                pi_c=pi_c,
                counts_v=add_histograms(
                    filled(scale, c, with_best=harm) for c in group if c.variant == variant
                ),
                counts_c=add_histograms(
                    filled(scale, c, with_best=not harm) for c in group if c.variant == baseline
                ),
                others=sum(c.requests for c in group if c.variant not in (variant, baseline)),
            )
        )
    return cells


def label_sampled(cell: EpochCell, *, rho_v: float, rho_c: float, unlabelled: int) -> EpochCell:
    """A cell of which only a sample is labelled, by a coin of known bias for each arm.

    The sampled label of the variant has the joint propensity pi_v * rho_v; a request that was not sampled tells
    what a request of another arm tells: that it existed.

    Args:
        cell: with the sampled requests' outcomes.
        rho_v: probability that a request of the variant is labelled, in (0, 1].
        rho_c: probability that a request of the baseline is labelled, in (0, 1].
        unlabelled: requests of both arms that the coins left out.
    """
    if not (0.0 < rho_v <= 1.0 and 0.0 < rho_c <= 1.0):
        raise ValueError(f"label sampling {rho_v}, {rho_c} must be above 0 and at most 1")
    return replace(cell, pi_v=cell.pi_v * rho_v, pi_c=cell.pi_c * rho_c, others=cell.others + unlabelled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Labels of one arm that have arrived, weighted by their propensity.

    Attributes:
        total: sum of y / pi over the arrived labels, y on [0, 1].
        clock: sum of (1 - pi) (y / pi)^2: the intrinsic time of the estimate.
    """

    total: float = 0.0
    clock: float = 0.0

    def plus(self, scale: BoundedScale, labels: Histogram, *, propensity: float) -> "Arrivals":
        """The sums with newly arrived labels of one epoch added.

        Args:
            scale: of the metric; what accumulates should be the rare outcome: an error is 1.
            labels: histogram of the new labels.
            propensity: of the arm in the epoch of the assignment, in (0, 1].
        """
        if not 0.0 < propensity <= 1.0:
            raise ValueError(f"propensity {propensity} must be above 0 and at most 1")
        values, counts = unit_arrays(scale, labels)
        return Arrivals(
            total=self.total + float(values @ counts) / propensity,
            clock=self.clock + (1.0 - propensity) * float((values**2) @ counts) / propensity**2,
        )


def arrival_interval(
    variant: Arrivals, baseline: Arrivals, *, requests: int, alpha: float, prior: float = 0.02
) -> tuple[float, float]:
    """A confidence sequence for how much more has arrived per request of the variant's than of the baseline's.

    What it covers is the difference, so far, of the two arms' cumulative outcomes if every request had gone to
    them. Asymptotic: the clock stands for the variance, so do not read it before some ten labels have arrived in each
    arm.

    Args:
        variant: its arrivals.
        baseline: its arrivals.
        requests: routed so far, to all arms, labelled or not; at least 1.
        alpha: error, in (0, 1).
        prior: width of the mixture, above 0: the interval is tightest where the clock is about 8 / prior^2.

    Returns:
        (low, high), in units of the metric's range per request.

    Source:
        Lindon, Kallus (arXiv 2603.25971): the sum of both arms' boundaries at alpha / 2, since the difference's error is
        no martingale.
    """
    if requests < 1:
        raise ValueError(f"{requests} requests given: wait for the first one")
    if not (0.0 < alpha < 1.0 and prior > 0.0):
        raise ValueError(f"alpha {alpha} must be in (0, 1) and the mixture's width {prior} positive")
    centre = (variant.total - baseline.total) / requests
    radius = sum(_boundary(arm.clock, alpha / 2.0, prior) for arm in (variant, baseline)) / requests
    return centre - radius, centre + radius


def _boundary(clock: float, alpha: float, prior: float) -> float:
    """Normal mixture boundary at an intrinsic time, two-sided."""
    scaled = clock * prior * prior + 1.0
    return math.sqrt(scaled / (prior * prior) * math.log(scaled / (alpha * alpha)))
