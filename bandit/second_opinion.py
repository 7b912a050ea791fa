"""What the count engine says of a metric that the split decides: a second opinion, for display.

It assumes that both arms stand still, which the deciding test does not. So there is one only while neither was found to
move; where it differs much from the deciding evidence then, somebody should look.
"""

from __future__ import annotations

from anabranch.bandit.counts import CountContrast, difference_interval
from anabranch.bandit.fold import FOR, contrast_test, higher_is_better, is_compared
from anabranch.bandit.futility import is_quiet
from anabranch.bandit.scales import Histogram
from anabranch.bandit.spec import Direction, Experiment, Metric
from anabranch.bandit.state import ExperimentState, Totals


def log_e_by_counts(
    experiment: Experiment, state: ExperimentState, metric: Metric, candidate: str
) -> float | None:
    """Log evidence of the counts that a metric compared in the split holds; None while an arm moves, and for latencies.

    A latency objective's count-based evidence is part of its verdict already.
    """
    if not _is_possible(experiment, state, metric, candidate):
        return None
    deciding = contrast_test(metric, direction=FOR)
    test = CountContrast(claim=deciding.claim, scale=deciding.scale, margin=deciding.margin)
    return test.log_e(*_counts(experiment, state, metric, candidate))


def interval_by_counts(
    experiment: Experiment, state: ExperimentState, metric: Metric, candidate: str
) -> tuple[float, float] | None:
    """The counts' confidence sequence of candidate minus baseline, in the metric's unit; None as for the evidence."""
    if not _is_possible(experiment, state, metric, candidate):
        return None
    scale = contrast_test(metric, direction=FOR).scale
    alpha = experiment.delta / len(experiment.candidates)
    low, high = difference_interval(scale, *_counts(experiment, state, metric, candidate), alpha=alpha)
    return (-high, -low) if metric.direction is Direction.MIN else (low, high)


def _is_possible(experiment: Experiment, state: ExperimentState, metric: Metric, candidate: str) -> bool:
    is_in_split = is_compared(metric) and not metric.is_long_tailed
    return is_in_split and is_quiet(state, metric.source, candidate, experiment.baseline)


def _counts(
    experiment: Experiment, state: ExperimentState, metric: Metric, candidate: str
) -> tuple[Histogram, Histogram]:
    """The candidate's and the baseline's outcomes in the split, higher is better."""
    mine, base = (
        higher_is_better(metric, state.totals.get(arm, Totals()).split.get(metric.source, {}))
        for arm in (candidate, experiment.baseline)
    )
    return mine, base
