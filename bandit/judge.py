"""Verdicts: what the tests say about every metric of every live candidate, in numbers and in words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from anabranch.bandit.betting import ContrastState
from anabranch.bandit.fold import (
    AGAINST,
    FOR,
    contrast_test,
    is_compared,
    is_limited,
    mean_test,
    test_key,
    unknown_of,
)
from anabranch.bandit.labels import with_unknown
from anabranch.bandit.least_weight import least_weight
from anabranch.bandit.measures import DIFFERENCE_SCALE, log_scale_of, scale_of
from anabranch.bandit.paired import PairedState, combined_log_e
from anabranch.bandit.quantiles import QuantileRatioTest, RatioClaim, quantile, quantile_interval
from anabranch.bandit.scales import BoundedScale, Histogram, LogScale, total_of
from anabranch.bandit.sequences import contrast_interval, mean_interval
from anabranch.bandit.spec import COST, Direction, Experiment, Metric, Role
from anabranch.bandit.state import ExperimentState, MetricTests, Totals
from anabranch.bandit.verdicts import Outcome, Verdict


def judge(experiment: Experiment, state: ExperimentState, now: float) -> ExperimentState:
    """The state with fresh verdicts on the live candidates; a verdict that was reached stays.

    A PASS can still turn into a FAIL: guardrails are watched to the end.
    """
    verdicts = dict(state.verdicts)
    for metric in experiment.metrics:
        for candidate in state.live:
            key = test_key(metric.name, candidate)
            verdicts[key] = _latched(_verdict(experiment, metric, candidate, state), verdicts.get(key), now)
    return replace(state, verdicts=verdicts)


def log_need_pass(experiment: Experiment) -> float:
    """Evidence that a promotion needs: the error is shared by the candidates, not by one candidate's claims."""
    return math.log(len(experiment.candidates) / experiment.delta)


def log_need_fail(experiment: Experiment) -> float:
    """Evidence that a removal needs: the error is shared by all guardrails of all candidates."""
    hypotheses = len(experiment.candidates) * max(1, len(experiment.guardrails))
    return math.log(hypotheses / experiment.rollback_delta)


def joint_harm(experiment: Experiment, state: ExperimentState, candidate: str) -> str | None:
    """Why a candidate fails by all of its guardrails taken together, or None.

    The average of the e-processes against the guardrails is one against "all of them hold", whatever their
    dependence. It needs no more than one of them alone would with the error split, and it sees harm that is spread.
    """
    found = [
        verdict
        for metric in experiment.guardrails
        if (verdict := state.verdicts.get(test_key(metric.name, candidate))) is not None
    ]
    if len(found) < 2:
        return None
    evidence = float(np.logaddexp.reduce([verdict.log_e_fail for verdict in found])) - math.log(
        len(experiment.guardrails)
    )
    need = math.log(len(experiment.candidates) / experiment.rollback_delta)
    if evidence < need:
        return None
    return f"the guardrails together show harm (evidence against {odds(evidence)} ≥ {odds(need)})"


def ratio_test(metric: Metric, claim: RatioClaim, ratio: float = 1.0) -> QuantileRatioTest:
    """The count-based test of a latency objective's quantile ratio."""
    tau = metric.statistic.quantile
    assert tau is not None
    return QuantileRatioTest(
        claim=claim, tau=tau, ratio=ratio, planned_count=1_000.0, scale=log_scale_of(metric)
    )


def log_e_ratio(
    test: QuantileRatioTest, first: Histogram, second: Histogram, *, at_most: float = math.inf
) -> float:
    """Log evidence for the claim about the first histogram's quantile against the second's, at most as much as asked."""
    if not total_of(first) or not total_of(second):
        return min(0.0, at_most)
    return test.log_e(test.advance(test.start(), first, second), at_most=at_most)


def _latched(fresh: Verdict, before: Verdict | None, now: float) -> Verdict:
    if before is None or before.decided_s is None:
        decided = fresh.outcome in (Outcome.PASS, Outcome.FAIL)
        return replace(fresh, decided_s=now) if decided else fresh
    if before.outcome is Outcome.PASS and fresh.outcome is Outcome.FAIL:
        return replace(fresh, decided_s=now)
    if before.outcome is fresh.outcome:
        return replace(fresh, decided_s=before.decided_s)
    return replace(fresh, outcome=before.outcome, decided_s=before.decided_s, reason=before.reason)


def _verdict(experiment: Experiment, metric: Metric, candidate: str, state: ExperimentState) -> Verdict:
    tests = state.tests.get(test_key(metric.name, candidate), MetricTests())
    need_pass, need_fail = log_need_pass(experiment), log_need_fail(experiment)
    numbers = Verdict(
        metric=metric.name, variant=candidate, outcome=Outcome.INCONCLUSIVE, limit=limit_text(metric)
    )
    try:
        numbers = _numbers(numbers, experiment, metric, candidate, state, tests)
        log_for, log_against = _evidence(experiment, metric, candidate, state, tests)
    except ValueError as error:
        return replace(numbers, outcome=Outcome.ERROR, reason=f"{metric.name} cannot be judged: {error}")
    outcome = Outcome.INCONCLUSIVE
    if metric.role is not Role.SIGNAL:
        if log_against >= need_fail:
            outcome = Outcome.FAIL
        elif log_for >= need_pass:
            outcome = Outcome.PASS
    verdict = replace(
        numbers,
        outcome=outcome,
        log_e_pass=log_for,
        log_e_fail=log_against,
        log_need_pass=need_pass,
        log_need_fail=need_fail,
    )
    return replace(verdict, reason=_reason(metric, verdict, state.totals.get(candidate, Totals())))


def _evidence(
    experiment: Experiment, metric: Metric, candidate: str, state: ExperimentState, tests: MetricTests
) -> tuple[float, float]:
    if is_limited(metric):
        if tests.mean_for is None or tests.mean_against is None:
            return 0.0, 0.0
        return (
            mean_test(metric, direction=FOR).log_e(tests.mean_for),
            mean_test(metric, direction=AGAINST).log_e(tests.mean_against),
        )
    if not is_compared(metric) or tests.split_for is None or tests.split_against is None:
        return 0.0, 0.0
    if metric.is_long_tailed:
        for_, against = contrast_test(metric, direction=FOR), contrast_test(metric, direction=AGAINST)
        arms = (_values(state, candidate, metric), _values(state, experiment.baseline, metric))
        return (
            _with_quantile(for_.log_e(tests.split_for), ratio_test(metric, RatioClaim.BELOW), *arms),
            _with_quantile(against.log_e(tests.split_against), ratio_test(metric, RatioClaim.ABOVE), *arms),
        )
    supporting, opposing = contrast_test(metric, direction=FOR), contrast_test(metric, direction=AGAINST)
    return (
        combined_log_e(_given(tests.split_for, tests.paired_for), plan_capital=supporting.capital),
        combined_log_e(_given(tests.split_against, tests.paired_against), plan_capital=opposing.capital),
    )


def _with_quantile(log_split: float, test: QuantileRatioTest, mine: Histogram, base: Histogram) -> float:
    """Both must hold: the split's test trusts only the coin, the count test speaks of the quantile itself.

    The second is not asked before the first says anything: it is the dearest part of a tick.
    """
    return log_e_ratio(test, mine, base, at_most=log_split) if log_split > 0.0 else log_split


def _given(split: ContrastState, paired: PairedState | None) -> list[ContrastState | PairedState]:
    return [split] if paired is None else [split, paired]


def _values(state: ExperimentState, arm: str, metric: Metric) -> Histogram:
    totals = state.totals.get(arm, Totals())
    by_source = totals.metrics
    if metric.is_fidelity:
        by_source = totals.paired
    elif is_compared(metric):
        by_source = totals.split
    return by_source.get(metric.source, {})


def _numbers(
    verdict: Verdict,
    experiment: Experiment,
    metric: Metric,
    candidate: str,
    state: ExperimentState,
    tests: MetricTests,
) -> Verdict:
    """The verdict with the estimate, its confidence sequence and the sample size; no conclusion."""
    alpha = experiment.delta / len(experiment.candidates)
    if is_compared(metric) and not metric.is_long_tailed:
        least = least_weight(experiment)
        return _with_difference(verdict, metric, candidate, state, tests, alpha, least)
    values, base = _values(state, candidate, metric), _values(state, experiment.baseline, metric)
    totals = state.totals.get(candidate, Totals())
    if not total_of(values):
        return verdict
    if metric.is_long_tailed:
        tau = metric.statistic.quantile or 0.5
        tailed = log_scale_of(metric)
        low, high = quantile_interval(tailed, values, tau, alpha=alpha, planned_count=1_000.0)
        estimate = quantile(tailed, values, tau)
        other = quantile(tailed, base, tau) if total_of(base) else None
    else:
        scale = scale_of(metric)
        assert not isinstance(scale, LogScale)
        unknown = unknown_of(metric, totals.windows)
        low, high = _bounded_interval(scale, values, unknown, alpha)
        estimate = _mean(scale, values)
        other = _mean(scale, base) if total_of(base) else None
    return replace(verdict, samples=total_of(values), estimate=estimate, low=low, high=high, baseline=other)


def _with_difference(
    verdict: Verdict,
    metric: Metric,
    candidate: str,
    state: ExperimentState,
    tests: MetricTests,
    alpha: float,
    least: float,
) -> Verdict:
    """Candidate minus baseline: from mirrored pairs where there are any, else from the split."""
    totals = state.totals.get(candidate, Totals())
    pairs = totals.paired.get(metric.source, {})
    if total_of(pairs):
        unknown = unknown_of(metric, totals.paired_windows)
        low, high = _bounded_interval(DIFFERENCE_SCALE, pairs, unknown, alpha)
        return replace(
            verdict, samples=total_of(pairs), estimate=_mean(DIFFERENCE_SCALE, pairs), low=low, high=high
        )
    if tests.split_for is None or tests.split_against is None:
        return verdict
    test = contrast_test(metric, direction=FOR)
    estimate = test.estimate(tests.split_for)
    if estimate is None:
        return verdict
    low, high = contrast_interval(test, tests.split_for, alpha=alpha, least_weight=least)
    if metric.fills_unlabelled:
        # What is not labelled may be the worst or the best: one test has seen it so, the other one so.
        most = test.estimate(tests.split_against)
        assert most is not None
        estimate = (estimate + most) / 2.0
        _, high = contrast_interval(test, tests.split_against, alpha=alpha, least_weight=least)
    if metric.direction is Direction.MIN:
        estimate, low, high = -estimate, -high, -low
    return replace(verdict, samples=tests.split_for.count, estimate=estimate, low=low, high=high)


def _bounded_interval(
    scale: BoundedScale, values: Histogram, unknown: int, alpha: float
) -> tuple[float, float]:
    """Where the mean may be, whatever the values are that are not known."""
    low, high = mean_interval(scale, with_unknown(scale, values, unknown, with_best=False), alpha=alpha)
    if unknown:
        _, high = mean_interval(scale, with_unknown(scale, values, unknown, with_best=True), alpha=alpha)
    return low, high


def _mean(scale: BoundedScale, values: Histogram) -> float:
    return sum(scale.value_of(index) * count for index, count in values.items()) / total_of(values)


def limit_text(metric: Metric) -> str:
    """What a metric is held against, as people write it."""
    if metric.non_inferiority_margin is not None:
        return f"at most {number(metric, metric.non_inferiority_margin)} worse than the baseline"
    if metric.minimum is not None:
        return f"at least {number(metric, metric.minimum)}"
    if metric.maximum is not None:
        what = f"{metric.statistic} " if metric.is_long_tailed else ""
        return f"{what}at most {number(metric, metric.maximum)}"
    return "better than the baseline" if metric.role is Role.OBJECTIVE else ""


def number(metric: Metric, value: float | None) -> str:
    """A value of a metric in its unit: milliseconds, per cent for shares, money, plain otherwise."""
    if value is None:
        return "no data"
    if metric.source == COST:
        return "more than can be told" if math.isinf(value) else f"{value:.3g} per 1,000"
    if metric.is_long_tailed:
        return "no answer" if math.isinf(value) else f"{value:.3g} ms"
    return f"{value:.4g}" if metric.is_graded else f"{100 * value:.2f} %"


def odds(log_evidence: float) -> str:
    """Evidence as a number people can compare, from its logarithm."""
    return f"{math.exp(log_evidence):,.3g}" if log_evidence < 13.8 else "over 1,000,000"


def _reason(metric: Metric, verdict: Verdict, totals: Totals) -> str:
    value = f"{metric.name} {number(metric, verdict.estimate)}"
    if is_compared(metric) and not metric.is_long_tailed:
        value = f"{metric.name} differs by {number(metric, verdict.estimate)}"
    if verdict.low is not None and verdict.high is not None:
        value += f" [{number(metric, verdict.low)}, {number(metric, verdict.high)}]"
    if metric.role is Role.OBJECTIVE and verdict.baseline is not None:
        value += f", baseline {number(metric, verdict.baseline)}"
    samples = f"n = {verdict.samples:,}"
    unlabelled = sum(
        windows[metric.source].unlabelled
        for windows in (totals.windows, totals.paired_windows)
        if metric.source in windows
    )
    if unlabelled:
        samples += f", {unlabelled:,} without a label in time"
    if verdict.outcome is Outcome.PASS:
        needed = f"evidence for {odds(verdict.log_e_pass)} ≥ {odds(verdict.log_need_pass)}"
        return f"{value} holds ({verdict.limit}; {needed}, {samples})"
    if verdict.outcome is Outcome.FAIL:
        needed = f"evidence against {odds(verdict.log_e_fail)} ≥ {odds(verdict.log_need_fail)}"
        return f"{value} fails ({verdict.limit}; {needed}, {samples})"
    if metric.role is Role.SIGNAL:
        return f"{value} ({samples})"
    return (
        f"{value} is open ({verdict.limit}; evidence for {odds(verdict.log_e_pass)} of "
        f"{odds(verdict.log_need_pass)}, against {odds(verdict.log_e_fail)} of "
        f"{odds(verdict.log_need_fail)}, {samples})"
    )
