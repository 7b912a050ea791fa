"""How long until the open claims of a running experiment decide? For display: from what was seen so far.

The planner asks the same before an experiment, from assumptions. Here its assumptions are measured: rates, discordance,
spread and gain are those of the outcomes so far, drawn towards "no difference" while there are few. A claim that is
waited for gathers information at the rate of the current weights; what it still needs is the evidence that is missing.

An estimate that rests on the estimate that is being tested: where a candidate turns out other than it looks, so does the
time. Nothing is decided by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from anabranch.bandit.bounds import OVERHEAD_NATS
from anabranch.bandit.first_passage import needed_nats
from anabranch.bandit.fold import higher_is_better, is_compared, is_limited, limited_values, test_key
from anabranch.bandit.information import Assumptions, Exposure, gauges
from anabranch.bandit.measures import BINARY_SCALE, DIFFERENCE_SCALE, log_scale_of, scale_of
from anabranch.bandit.quantiles import quantile
from anabranch.bandit.scales import BoundedScale, Histogram, LogScale, total_of
from anabranch.bandit.spec import ERROR, FEEDBACK_PREFIX, TOP1_AGREEMENT, Experiment, Metric
from anabranch.bandit.state import ExperimentState, Totals
from anabranch.bandit.verdicts import Outcome, Verdict

LEVELS = (0.5, 0.9)
"""The shares of runs that an expectation speaks of, as a plan does."""

_CAUTION = 50.0
"""Outcomes of "no difference" that an observed difference is weighed against."""

_LEAST_SAMPLES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """When an open claim of a candidate passes, in seconds from now, by level of `LEVELS`.

    +inf: not under the current weights, or not while things are as they look.
    """

    metric: str
    variant: str
    after_s: tuple[float, ...]


def remaining(experiment: Experiment, state: ExperimentState, requests_per_s: float) -> dict[str, Remaining]:
    """By `metric/variant`, the open claims of live candidates about which enough was seen to say anything.

    Args:
        experiment: The spec.
        state: Where it stands.
        requests_per_s: Routed to the model now.
    """
    if not requests_per_s > 0.0:
        return {}
    found = {}
    for metric in experiment.metrics:
        for candidate in state.live:
            verdict = state.verdicts.get(test_key(metric.name, candidate))
            if verdict is None or verdict.outcome is not Outcome.INCONCLUSIVE:
                continue
            if not (is_compared(metric) or is_limited(metric)) or verdict.samples < _LEAST_SAMPLES:
                continue
            found[test_key(metric.name, candidate)] = Remaining(
                metric=metric.name,
                variant=candidate,
                after_s=_after(experiment, state, metric, candidate, verdict, requests_per_s),
            )
    return found


def _after(
    experiment: Experiment,
    state: ExperimentState,
    metric: Metric,
    candidate: str,
    verdict: Verdict,
    requests_per_s: float,
) -> tuple[float, ...]:
    exposure = Exposure(
        weight=state.weights.get(candidate, 0.0),
        baseline=state.weights.get(experiment.baseline, 0.0),
        mirrored=state.mirror,
    )
    asked, assumed = _as_seen(experiment, state, metric, candidate, requests_per_s)
    if asked is None:
        return tuple(math.inf for _ in LEVELS)
    missing = max(verdict.log_need_pass - verdict.log_e_pass, 1e-3)
    share = min(1.0, missing / verdict.log_need_pass) if verdict.log_need_pass > 0.0 else 1.0
    return tuple(
        max(
            (
                # What the method costs on top was paid along the way.
                needed_nats(missing, OVERHEAD_NATS[gauge.method] * share, level) / gauge.nats_per_s
                if gauge.nats_per_s > 0.0
                else math.inf
                for gauge in gauges(asked, assumed, exposure)
            ),
            default=math.inf,
        )
        for level in LEVELS
    )


def _as_seen(
    experiment: Experiment, state: ExperimentState, metric: Metric, candidate: str, requests_per_s: float
) -> tuple[Metric | None, Assumptions]:
    """The planner's assumptions, measured; and the metric with its margin moved by the difference that shows.

    The metric is None where the difference is beyond the margin: what looks false does not pass.
    """
    mine, base = state.totals.get(candidate, Totals()), state.totals.get(experiment.baseline, Totals())
    assumed = Assumptions(requests_per_s=requests_per_s)
    if metric.is_long_tailed:
        return metric, _latency_as_seen(metric, mine, base, assumed)
    scale = scale_of(metric)
    assert not isinstance(scale, LogScale)
    split = higher_is_better(metric, mine.split.get(metric.source, {}))
    other = higher_is_better(metric, base.split.get(metric.source, {}))
    pairs = mine.paired.get(metric.source, {})
    width = scale.high - scale.low
    mean = _share(scale, higher_is_better(metric, mine.metrics.get(metric.source, {})))
    if mean is None:
        mean = _share(scale, other) or 0.5
    if metric.source == TOP1_AGREEMENT:
        assumed = replace(assumed, agreement=_share(scale, pairs) or 0.5)
    elif metric.source == ERROR:
        assumed = replace(assumed, error_rate=1.0 - mean)
    else:
        assumed = replace(
            assumed, accuracy=mean, deviation=_deviation(scale, split), **_labelled(metric, mine)
        )
    if not is_compared(metric):
        return metric, assumed
    difference = _difference(metric, scale, split, other, pairs)
    if metric.is_paired and total_of(pairs):
        differing = total_of(pairs) - pairs.get(DIFFERENCE_SCALE.bin_of(0.0), 0)
        assumed = replace(assumed, discordance=(differing + 0.5) / (total_of(pairs) + 1.0))
    if metric.non_inferiority_margin is None:
        return (metric if difference > 0.0 else None), replace(assumed, gain=min(max(difference, 0.0), 0.99))
    room = metric.non_inferiority_margin + difference * width
    return (replace(metric, non_inferiority_margin=room) if room > 0.0 else None), assumed


def _latency_as_seen(metric: Metric, mine: Totals, base: Totals, assumed: Assumptions) -> Assumptions:
    values, others = mine.split.get(metric.source, {}), base.split.get(metric.source, {})
    if is_limited(metric):
        seen = limited_values(metric, mine.metrics)
        within = (seen.get(1, 0) + 0.5) / (total_of(seen) + 1.0)
        return replace(assumed, within_limit=min(within, 0.999999))
    tau = metric.statistic.quantile
    assert tau is not None
    spread = _log_spread(log_scale_of(metric), others)
    first, second = (quantile(log_scale_of(metric), each, tau) for each in (values, others))
    if first is None or second is None or not math.isfinite(second):
        return assumed
    return replace(assumed, latency_spread=spread, speedup=min(max(1.0 - first / second, 0.0), 0.99))


def _difference(
    metric: Metric, scale: BoundedScale, split: Histogram, other: Histogram, pairs: Histogram
) -> float:
    """Candidate minus baseline as a share of the range, higher is better, drawn towards none while data are few."""
    count = total_of(pairs)
    if metric.is_paired and count:
        mean = sum(DIFFERENCE_SCALE.value_of(index) * number for index, number in pairs.items()) / count
        mean = -mean if metric.lower_is_better else mean
    else:
        first, second = _share(scale, split), _share(scale, other)
        if first is None or second is None:
            return 0.0
        mean, count = first - second, min(total_of(split), total_of(other))
    return mean * count / (count + _CAUTION)


def _labelled(metric: Metric, totals: Totals) -> dict[str, float]:
    if not metric.source.startswith(FEEDBACK_PREFIX):
        return {}
    seen, asked = total_of(totals.metrics.get(metric.source, {})), totals.requests
    if not asked:
        seen, asked = total_of(totals.paired.get(metric.source, {})), totals.pairs
    return {"label_share": min(1.0, seen / asked)} if asked else {}


def _share(scale: BoundedScale, values: Histogram) -> float | None:
    """The mean as a share of the range, never quite an end of it; None without data."""
    count = total_of(values)
    if not count:
        return None
    total = sum(scale.value_of(index) * number for index, number in values.items())
    share = (total / count - scale.low) / (scale.high - scale.low)
    return (share * count + 0.5) / (count + 1.0) if scale is BINARY_SCALE else min(max(share, 0.0), 1.0)


def _deviation(scale: BoundedScale, values: Histogram) -> float:
    mean = _share(scale, values)
    if mean is None:
        return 0.2
    width = scale.high - scale.low
    squares = sum(
        ((scale.value_of(index) - scale.low) / width - mean) ** 2 * number for index, number in values.items()
    )
    return min(1.0, math.sqrt(squares / total_of(values)))


def _log_spread(scale: LogScale, values: Histogram) -> float:
    logs = [
        (math.log(at), number)
        for index, number in values.items()
        if 0.0 < (at := scale.value_of(index)) < math.inf
    ]
    count = sum(number for _, number in logs)
    if count < 2:
        return 0.5
    mean = sum(at * number for at, number in logs) / count
    return max(0.01, math.sqrt(sum((at - mean) ** 2 * number for at, number in logs) / count))
