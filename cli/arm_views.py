"""The variants of an experiment as people see them: traffic, latency, errors, and what is proven about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from anabranch.bandit.allocation import who_is_best
from anabranch.bandit.evidence import Window
from anabranch.bandit.fold import is_compared, test_key
from anabranch.bandit.judge import limit_text
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.measures import BINARY_SCALE, LATENCY_SCALE
from anabranch.bandit.quantiles import quantile, quantile_interval
from anabranch.bandit.recent import recent_totals
from anabranch.bandit.remaining import Remaining
from anabranch.bandit.scales import Histogram, total_of
from anabranch.bandit.second_opinion import log_e_by_counts
from anabranch.bandit.sequences import mean_interval
from anabranch.bandit.spec import COST, ERROR, LATENCY, TOP1_AGREEMENT, Experiment, Metric, Role
from anabranch.bandit.state import ExperimentState, Totals
from anabranch.bandit.verdicts import Outcome, Verdict
from anabranch.cli.view_types import (
    ArmState,
    ArmView,
    IntervalView,
    LabelsView,
    Limit,
    QuantileView,
    Unit,
    VerdictView,
)

SHOWN_QUANTILES = (0.5, 0.95, 0.99)

MOST_EVIDENCE = 1e12
"""Where shown evidence is capped; what is decided by is not."""


def arm_views(
    experiment: Experiment,
    state: ExperimentState,
    counted_s: float | None,
    expected: Mapping[str, Remaining] = MappingProxyType({}),
) -> tuple[ArmView, ...]:
    """The baseline, then the candidates in the order of the spec.

    Args:
        experiment: The spec.
        state: Where it stands.
        counted_s: Seconds over which its requests were counted; None before the start.
        expected: By `metric/variant`, when open claims may pass.
    """
    served = sum(totals.requests for totals in state.totals.values())
    best = _best(experiment, state)
    return tuple(
        _arm(experiment, state, name, served, counted_s, best.get(name), expected) for name in experiment.arms
    )


def _best(experiment: Experiment, state: ExperimentState) -> Mapping[str, float]:
    """Who is best, with what probability; empty while no two arms have outcomes of the objective."""
    metric = experiment.objective
    if metric is None or not state.live or state.phase.is_over:
        return {}
    seen = [
        name
        for name in (experiment.baseline, *state.live)
        if total_of(recent_totals(state, name).split.get(metric.source, {}))
    ]
    return who_is_best(experiment, state) if len(seen) > 1 else {}


def _arm(
    experiment: Experiment,
    state: ExperimentState,
    name: str,
    served: int,
    counted_s: float | None,
    best: float | None,
    expected: Mapping[str, Remaining],
) -> ArmView:
    totals = state.totals.get(name, Totals())
    latency = totals.metrics.get(LATENCY, {})
    removal = next((removal for removal in state.removed if removal.variant == name), None)
    return ArmView(
        name=name,
        role="baseline" if name == experiment.baseline else "candidate",
        state=_state_of(experiment, state, name),
        weight=state.weights.get(name, 0.0),
        requests=totals.requests,
        units=totals.units,
        share_observed=totals.requests / served if served else None,
        requests_per_s=totals.requests / counted_s if counted_s else None,
        p50_ms=quantile(LATENCY_SCALE, latency, 0.5),
        p95_ms=quantile(LATENCY_SCALE, latency, 0.95),
        p99_ms=quantile(LATENCY_SCALE, latency, 0.99),
        quantiles=_quantiles(latency, experiment.delta / len(experiment.candidates)),
        best_probability=best,
        error_rate=_share_of_ones(totals.metrics.get(ERROR, {})),
        masked=totals.masked,
        mirrored_pairs=totals.pairs,
        mirrored_failed=totals.pairs_failed,
        agreement=_agreement(experiment, state, name),
        verdicts=()
        if name == experiment.baseline
        else tuple(
            _verdict(
                metric,
                state.verdicts.get(test_key(metric.name, name)),
                name,
                log_e_by_counts(experiment, state, metric, name),
                expected.get(test_key(metric.name, name)),
            )
            for metric in experiment.metrics
        ),
        removed_s=None if removal is None else removal.at_s,
        removed_reason="" if removal is None else removal.reason,
        labels=(
            *_labels(totals.windows, totals.metrics, is_paired=False),
            *_labels(totals.paired_windows, totals.paired, is_paired=True),
        ),
    )


def _labels(
    windows: Mapping[str, Window], counted: Mapping[str, Histogram], *, is_paired: bool
) -> list[LabelsView]:
    found = []
    for source, window in windows.items():
        labelled = total_of(counted.get(source, {}))
        found.append(
            LabelsView(
                source=source,
                is_paired=is_paired,
                waiting=max(0, window.opened - labelled - window.unlabelled),
                labelled=labelled,
                unlabelled=window.unlabelled,
                late=window.late,
            )
        )
    return found


def _quantiles(latency: Histogram, alpha: float) -> tuple[QuantileView, ...]:
    found = []
    for probability in SHOWN_QUANTILES:
        estimate = quantile(LATENCY_SCALE, latency, probability)
        if estimate is not None:
            low, high = quantile_interval(
                LATENCY_SCALE, latency, probability, alpha=alpha, planned_count=1_000.0
            )
            found.append(
                QuantileView(probability=probability, estimate_ms=estimate, low_ms=low, high_ms=high)
            )
    return tuple(found)


def _state_of(experiment: Experiment, state: ExperimentState, name: str) -> ArmState:
    if name == experiment.baseline:
        return ArmState.BASELINE
    if any(removal.variant == name for removal in state.removed):
        return ArmState.REMOVED
    if name == state.winner:
        return ArmState.WINNER
    return ArmState.WAITING if state.phase is Phase.PENDING else ArmState.LIVE


def _share_of_ones(histogram: Histogram) -> float | None:
    total = total_of(histogram)
    return histogram.get(1, 0) / total if total else None


def _agreement(experiment: Experiment, state: ExperimentState, name: str) -> IntervalView | None:
    """From the verdict where the spec asks for agreement, so that what is shown is what was used."""
    histogram = state.totals.get(name, Totals()).paired.get(TOP1_AGREEMENT, {})
    estimate = _share_of_ones(histogram)
    if estimate is None:
        return None
    asked = next((metric.name for metric in experiment.metrics if metric.source == TOP1_AGREEMENT), None)
    used = None if asked is None else state.verdicts.get(test_key(asked, name))
    if used is not None and used.low is not None and used.high is not None and used.estimate is not None:
        return IntervalView(estimate=used.estimate, low=used.low, high=used.high, samples=used.samples)
    alpha = experiment.delta / len(experiment.candidates)
    low, high = mean_interval(BINARY_SCALE, histogram, alpha=alpha)
    return IntervalView(estimate=estimate, low=low, high=high, samples=total_of(histogram))


def _verdict(
    metric: Metric, found: Verdict | None, name: str, by_counts: float | None, expected: Remaining | None
) -> VerdictView:
    verdict = found or Verdict(
        metric=metric.name,
        variant=name,
        outcome=Outcome.INCONCLUSIVE,
        limit=limit_text(metric),
        reason="no data yet",
    )
    return VerdictView(
        metric=metric.name,
        source=metric.source,
        role=metric.role,
        statistic=metric.statistic,
        unit=unit_of(metric),
        is_difference=is_compared(metric) and not metric.is_long_tailed,
        outcome=verdict.outcome,
        estimate=verdict.estimate,
        low=verdict.low,
        high=verdict.high,
        baseline=verdict.baseline,
        limit=verdict.limit,
        limit_kind=_limit_kind(metric),
        limit_value=_limit_value(metric),
        samples=verdict.samples,
        evidence_for=_multiple(verdict.log_e_pass),
        evidence_for_needed=_multiple(verdict.log_need_pass),
        evidence_against=_multiple(verdict.log_e_fail),
        evidence_against_needed=_multiple(verdict.log_need_fail),
        evidence_by_counts=None if by_counts is None else _multiple(by_counts),
        progress=_progress(verdict),
        decided_s=verdict.decided_s,
        expected_half_s=None if expected is None else _finite(expected.after_s[0]),
        expected_most_s=None if expected is None else _finite(expected.after_s[-1]),
        reason=verdict.reason,
    )


def unit_of(metric: Metric) -> Unit:
    """What the metric's numbers are in."""
    if metric.source == COST:
        return Unit.PER_1K
    if metric.is_long_tailed:
        return Unit.MS
    return Unit.PLAIN if metric.is_graded else Unit.SHARE


def _limit_kind(metric: Metric) -> Limit:
    if metric.non_inferiority_margin is not None:
        return Limit.MARGIN
    if metric.minimum is not None:
        return Limit.MINIMUM
    if metric.maximum is not None:
        return Limit.MAXIMUM
    return Limit.BETTER if metric.role is Role.OBJECTIVE else Limit.NONE


def _limit_value(metric: Metric) -> float | None:
    given = (metric.non_inferiority_margin, metric.minimum, metric.maximum)
    return next((value for value in given if value is not None), None)


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def _multiple(log_evidence: float) -> float:
    return min(math.exp(min(log_evidence, 100.0)), MOST_EVIDENCE)


def _progress(verdict: Verdict) -> float:
    if verdict.outcome is Outcome.PASS:
        return 1.0
    if verdict.log_need_pass <= 0.0:
        return 0.0
    return min(1.0, max(0.0, verdict.log_e_pass / verdict.log_need_pass))
