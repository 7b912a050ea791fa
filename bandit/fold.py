"""Fold evidence into an experiment's state: totals for what is shown, and the running tests for what is decided.

Pure and incremental: a tick costs what is new, however old the experiment is. The bets and predictions of one
fold are constant and come from earlier folds, so the order of the outcomes inside it does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from anabranch.bandit.betting import Claim, ContrastTest, EpochCell, MeanTest, Side
from anabranch.bandit.drift import DriftState, advance
from anabranch.bandit.evidence import (
    Cell,
    Evidence,
    Window,
    add_histograms,
    add_windows,
    merge_cells,
    merge_pairs,
)
from anabranch.bandit.labels import with_unknown
from anabranch.bandit.measures import BINARY_SCALE, DIFFERENCE_SCALE, log_scale_of, scale_of
from anabranch.bandit.paired import PairedTest
from anabranch.bandit.quantiles import quantile, threshold_counts
from anabranch.bandit.scales import BoundedScale, Histogram, LogScale, flipped
from anabranch.bandit.spec import Experiment, Metric, Role
from anabranch.bandit.srm import SrmState, SrmTest, UnitCell
from anabranch.bandit.state import ExperimentState, MetricTests, Totals

FOR = True
AGAINST = False

MIN_BASELINE_OUTCOMES = 50
"""Outcomes of the baseline before its quantile is a threshold worth comparing at."""

REFERENCE_OUTCOMES = 500
"""Recent outcomes of the baseline that its quantile is taken from, at most."""

_View = Callable[[Histogram], Histogram]


def fold(experiment: Experiment, state: ExperimentState, evidence: Evidence) -> ExperimentState:
    """The state with the evidence added to totals and tests."""
    if evidence.is_empty:
        return state
    evidence = replace(evidence, cells=merge_cells(evidence.cells), pairs=merge_pairs(evidence.pairs))
    tests = dict(state.tests)
    for metric in experiment.metrics:
        seen = seen_outcomes(metric, state, evidence)
        for candidate in state.live:
            key = test_key(metric.name, candidate)
            tests[key] = _advance(
                experiment, metric, candidate, tests.get(key, MetricTests()), evidence, seen
            )
    totals = {
        arm: add_totals(experiment, state.totals.get(arm, Totals()), arm, evidence) for arm in experiment.arms
    }
    return replace(
        state,
        totals=totals,
        tests=tests,
        reference=_reference(experiment, state, evidence),
        sample_ratio=_sample_ratio(experiment, state, evidence),
        drift=_drift(experiment, state, evidence),
        cursor=max(state.cursor, evidence.last),
    )


def log_e_sample_ratio(experiment: Experiment, state: ExperimentState) -> float:
    """Log evidence that units do not arrive in the arms as the weights say: something loses them."""
    if state.sample_ratio is None:
        return 0.0
    return SrmTest(arms=experiment.arms).log_e(state.sample_ratio)


def _sample_ratio(experiment: Experiment, state: ExperimentState, evidence: Evidence) -> SrmState:
    test = SrmTest(arms=experiment.arms)
    cells = [
        UnitCell(
            weights=weights,
            units={cell.variant: cell.units for cell in evidence.cells if cell.epoch == epoch},
        )
        for epoch, weights in sorted(evidence.weights.items())
        if weights  # none are set before the start
    ]
    return test.advance(state.sample_ratio or test.start(), cells)


def test_key(metric: str, candidate: str) -> str:
    """The key of a metric's tests and verdict of one candidate."""
    return f"{metric}/{candidate}"


def is_compared(metric: Metric) -> bool:
    """Whether the metric is judged against the baseline's, not against a fixed limit."""
    return metric.role is Role.OBJECTIVE or metric.non_inferiority_margin is not None


def is_limited(metric: Metric) -> bool:
    """Whether the metric is judged against a fixed limit."""
    return metric.minimum is not None or metric.maximum is not None


def contrast_test(metric: Metric, *, direction: bool) -> ContrastTest:
    """The test on the split for (or against) a metric that is compared with the baseline's."""
    scale = BINARY_SCALE if metric.is_long_tailed else _bounded(metric)
    margin = metric.non_inferiority_margin or 0.0
    return ContrastTest(claim=_claim(metric, direction), scale=scale, margin=margin)


def paired_test(metric: Metric, *, direction: bool) -> PairedTest:
    """The test on mirrored pairs for (or against) a metric that is compared with the baseline's."""
    return PairedTest(claim=_claim(metric, direction), margin=metric.non_inferiority_margin or 0.0)


def mean_test(metric: Metric, *, direction: bool) -> MeanTest:
    """The test for (or against) a metric with a fixed limit, on what `limited_values` counts."""
    side = Side.ABOVE if direction else Side.BELOW
    return MeanTest(side=side, threshold=limit_threshold(metric), scale=_limited_scale(metric))


def limited_values(metric: Metric, totals: Mapping[str, Histogram]) -> Histogram:
    """A metric's outcomes as values whose mean must be at least the threshold: higher is better.

    A latency limit becomes the share of requests within it. The limit is rounded down to a border of the
    scale, where counts are exact.
    """
    values = totals.get(metric.source, {})
    if metric.is_long_tailed:
        assert metric.maximum is not None
        scale = log_scale_of(metric)
        last = scale.bin_of(metric.maximum)
        if scale.upper_border(last) > metric.maximum:
            last -= 1
        within = sum(count for index, count in values.items() if index <= last)
        return {0: sum(values.values()) - within, 1: within}
    return higher_is_better(metric, values)


def limit_threshold(metric: Metric) -> float:
    """What the mean of `limited_values` must be above."""
    if metric.is_long_tailed:
        quantile = metric.statistic.quantile
        assert quantile is not None
        return quantile
    if metric.minimum is not None:
        return metric.minimum
    assert metric.maximum is not None
    return metric.low + metric.high - metric.maximum


def _limited_scale(metric: Metric) -> BoundedScale:
    return BINARY_SCALE if metric.is_long_tailed else _bounded(metric)


def _bounded(metric: Metric) -> BoundedScale:
    scale = scale_of(metric)
    assert not isinstance(scale, LogScale)
    return scale


def higher_is_better(metric: Metric, values: Histogram) -> Histogram:
    """The outcomes of a bounded metric, flipped once where lower is better."""
    return flipped(_bounded(metric), values) if metric.lower_is_better else values


def higher_differences(metric: Metric, pairs: Histogram) -> Histogram:
    """The differences candidate minus baseline of a metric, flipped once where lower is better."""
    return flipped(DIFFERENCE_SCALE, pairs) if metric.lower_is_better else pairs


def _claim(metric: Metric, direction: bool) -> Claim:
    if direction is AGAINST:
        return Claim.HARM
    return Claim.NON_INFERIORITY if metric.non_inferiority_margin is not None else Claim.SUPERIORITY


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEpoch:
    """One epoch's outcomes of a compared metric, by arm, higher is better.

    Attributes:
        total: Outcomes of all arms, known or not.
        unknown: By arm, requests whose label never came, where they are set against the claim.
    """

    weights: Mapping[str, float]
    values: Mapping[str, Histogram]
    total: int
    unknown: Mapping[str, int] = field(default_factory=dict)


def seen_outcomes(metric: Metric, state: ExperimentState, evidence: Evidence) -> list[SeenEpoch] | None:
    """A compared metric's new outcomes by epoch; None when they are not compared, or not yet.

    Args:
        metric: of the experiment.
        state: before the fold: what outcomes are compared at must not depend on them.
        evidence: with one cell per epoch and arm.
    """
    view = _view(metric, state) if is_compared(metric) else None
    if view is None:
        return None
    found = []
    for epoch, weights in sorted(evidence.weights.items()):
        own = [cell for cell in evidence.cells if cell.epoch == epoch]
        values = {cell.variant: view(cell.metrics.get(metric.source, {})) for cell in own}
        unknown = {cell.variant: count for cell in own if (count := unknown_of(metric, cell.windows))}
        total = sum(sum(histogram.values()) for histogram in values.values()) + sum(unknown.values())
        if total:
            found.append(SeenEpoch(weights=weights, values=values, total=total, unknown=unknown))
    return found


def unknown_of(metric: Metric, windows: Mapping[str, Window]) -> int:
    """Requests without a label that are set against what is claimed of the metric."""
    return windows[metric.source].unlabelled if metric.fills_unlabelled and metric.source in windows else 0


def _advance(
    experiment: Experiment,
    metric: Metric,
    candidate: str,
    tests: MetricTests,
    evidence: Evidence,
    seen: list[SeenEpoch] | None,
) -> MetricTests:
    if is_limited(metric):
        new = _new_limited(metric, candidate, evidence)
        own = [cell for cell in evidence.cells if cell.variant == candidate]
        unknown = sum(unknown_of(metric, cell.windows) for cell in own)
        for_, against = mean_test(metric, direction=FOR), mean_test(metric, direction=AGAINST)
        worst = with_unknown(for_.scale, new, unknown, with_best=False)
        best = with_unknown(against.scale, new, unknown, with_best=True)
        return replace(
            tests,
            mean_for=for_.advance(tests.mean_for or for_.start(), worst),
            mean_against=against.advance(tests.mean_against or against.start(), best),
        )
    if seen is None:
        return tests
    tests = _advance_pairs(metric, candidate, tests, evidence)
    split_for, split_against = contrast_test(metric, direction=FOR), contrast_test(metric, direction=AGAINST)
    cells = contrast_cells(split_for, experiment.baseline, candidate, seen)
    opposing = cells
    if any(epoch.unknown for epoch in seen):
        opposing = contrast_cells(split_against, experiment.baseline, candidate, seen)
    return replace(
        tests,
        split_for=split_for.advance(tests.split_for or split_for.start(), cells),
        split_against=split_against.advance(tests.split_against or split_against.start(), opposing),
    )


def _advance_pairs(metric: Metric, candidate: str, tests: MetricTests, evidence: Evidence) -> MetricTests:
    if not metric.is_paired:
        return tests
    paired_for, paired_against = paired_test(metric, direction=FOR), paired_test(metric, direction=AGAINST)
    own = [pair for pair in evidence.pairs if pair.variant == candidate]
    pairs = higher_differences(metric, add_histograms(pair.metrics.get(metric.source, {}) for pair in own))
    unknown = sum(unknown_of(metric, pair.windows) for pair in own)
    worst = with_unknown(DIFFERENCE_SCALE, pairs, unknown, with_best=False)
    best = with_unknown(DIFFERENCE_SCALE, pairs, unknown, with_best=True)
    return replace(
        tests,
        paired_for=paired_for.advance(tests.paired_for or paired_for.start(), worst),
        paired_against=paired_against.advance(tests.paired_against or paired_against.start(), best),
    )


def _new_limited(metric: Metric, candidate: str, evidence: Evidence) -> Histogram:
    cells = evidence.pairs if metric.is_fidelity else evidence.cells
    return add_histograms(limited_values(metric, cell.metrics) for cell in cells if cell.variant == candidate)


def _view(metric: Metric, state: ExperimentState) -> _View | None:
    """How a compared metric's outcomes are read, higher is better; None when it cannot be said yet.

    A latency quantile is compared at the baseline's own recent quantile, taken from the folds before this one:
    the share of requests within it is a mean, so that the test stays valid under drift and changing weights.
    """
    if not metric.is_long_tailed:
        return partial(higher_is_better, metric)
    tau = metric.statistic.quantile
    assert tau is not None
    seen = state.reference.get(metric.source, {})
    if sum(seen.values()) < MIN_BASELINE_OUTCOMES:
        return None
    scale = log_scale_of(metric)
    at = quantile(scale, seen, tau)
    assert at is not None
    border = min(scale.bin_of(at), scale.bins - 2)
    return partial(_within, scale, border)


def _within(scale: LogScale, border: int, values: Histogram) -> Histogram:
    return threshold_counts(scale, values, border)


def contrast_cells(
    test: ContrastTest, baseline: str, candidate: str, seen: list[SeenEpoch]
) -> list[EpochCell]:
    """What a test of two arms reads: the epochs in which both had traffic, what is not known set against its claim."""
    harm = test.claim is Claim.HARM
    found: list[EpochCell] = []
    for epoch in seen:
        pi_v, pi_c = epoch.weights.get(candidate, 0.0), epoch.weights.get(baseline, 0.0)
        if not (pi_v > 0.0 and pi_c > 0.0):
            continue
        counts_v, counts_c = (
            with_unknown(test.scale, epoch.values.get(arm, {}), epoch.unknown.get(arm, 0), with_best=best)
            for arm, best in ((candidate, harm), (baseline, not harm))
        )
        found.append(
            EpochCell(
                pi_v=pi_v,
                pi_c=pi_c,
                counts_v=counts_v,
                counts_c=counts_c,
                others=epoch.total - sum(counts_v.values()) - sum(counts_c.values()),
            )
        )
    return found


def _is_split(experiment: Experiment, weights: Mapping[str, float]) -> bool:
    """Whether arms can be compared in an epoch: the baseline and a candidate had traffic side by side."""
    return 0.0 < weights.get(experiment.baseline, 0.0) < 1.0


def _reference(
    experiment: Experiment, state: ExperimentState, evidence: Evidence
) -> dict[str, Mapping[int, int]]:
    """The baseline's recent latencies in the split: old ones are halved away, so that it follows the load."""
    reference = dict(state.reference)
    for source in sorted({metric.source for metric in experiment.metrics if metric.is_long_tailed}):
        new = add_histograms(
            cell.metrics.get(source, {})
            for cell in evidence.cells
            if cell.variant == experiment.baseline
            and _is_split(experiment, evidence.weights.get(cell.epoch, {}))
        )
        recent = add_histograms([reference.get(source, {}), new])
        while sum(recent.values()) > REFERENCE_OUTCOMES:
            recent = {index: count // 2 for index, count in recent.items() if count > 1}
        reference[source] = recent
    return reference


def _drift(experiment: Experiment, state: ExperimentState, evidence: Evidence) -> dict[str, DriftState]:
    """Whether the arms of the split stand still: count-based tests assume that they do."""
    watched = dict(state.drift)
    for source in sorted({metric.source for metric in experiment.metrics if is_compared(metric)}):
        for arm in experiment.arms:
            new = add_histograms(
                cell.metrics.get(source, {})
                for cell in evidence.cells
                if cell.variant == arm and _is_split(experiment, evidence.weights.get(cell.epoch, {}))
            )
            key = drift_key(source, arm)
            if new:
                watched[key] = advance(watched.get(key, DriftState()), new)
    return watched


def drift_key(source: str, arm: str) -> str:
    """The key of the watch over one arm's outcomes of one source."""
    return f"{source}/{arm}"


def add_totals(experiment: Experiment, totals: Totals, arm: str, evidence: Evidence) -> Totals:
    """An arm's totals with its part of the evidence added."""
    cells: list[Cell] = [cell for cell in evidence.cells if cell.variant == arm]
    compared = {metric.source for metric in experiment.metrics if is_compared(metric)}
    split = [
        {source: values for source, values in cell.metrics.items() if source in compared}
        for cell in cells
        if _is_split(experiment, evidence.weights.get(cell.epoch, {}))
    ]
    pairs = [pair for pair in evidence.pairs if pair.variant == arm]
    return Totals(
        requests=totals.requests + sum(cell.requests for cell in cells),
        units=totals.units + sum(cell.units for cell in cells),
        masked=totals.masked + sum(cell.masked for cell in cells),
        pairs=totals.pairs + sum(pair.pairs for pair in pairs),
        pairs_failed=totals.pairs_failed + sum(pair.failed for pair in pairs),
        metrics=_sum(totals.metrics, [cell.metrics for cell in cells]),
        split=_sum(totals.split, split),
        paired=_sum(totals.paired, [pair.metrics for pair in pairs]),
        windows=add_windows([totals.windows, *(cell.windows for cell in cells)]),
        paired_windows=add_windows([totals.paired_windows, *(pair.windows for pair in pairs)]),
    )


def _sum(old: Mapping[str, Histogram], new: Sequence[Mapping[str, Histogram]]) -> dict[str, Histogram]:
    parts = [old, *new]
    sources = sorted({source for part in parts for source in part})
    return {source: add_histograms(part.get(source, {}) for part in parts) for source in sources}
