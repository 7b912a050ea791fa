"""Which scale the outcomes of a source are counted on: one answer for the ingester, the tests and the displays."""

from __future__ import annotations

from anabranch.bandit.costs import cost_scale
from anabranch.bandit.paired import BINARY_DIFFERENCES
from anabranch.bandit.scales import BINARY, LATENCY_SCALE, BinaryScale, GridScale, LogScale
from anabranch.bandit.spec import COST, FEEDBACK_PREFIX, KL, Experiment, Metric

Scale = BinaryScale | GridScale | LogScale

BINARY_SCALE = BINARY
DIFFERENCE_SCALE = BINARY_DIFFERENCES
_GRID_BINS = 101
# Divergences are limited to hundredths of a nat: half a step is a quarter of a thousandth.
KL_SCALE = GridScale(low=0.0, high=1.0, bins=2_001)
"""Nats of a compared reply; what is above 1 counts as 1, so that a bound on the mean is one whatever the tail is."""


def scale_of(metric: Metric) -> Scale:
    """The scale of a metric's split outcomes."""
    if metric.source == COST:
        # Before the prices are known, costs are in milliseconds: there is no outcome yet.
        return LATENCY_SCALE if metric.hourly_price is None else cost_scale(metric.hourly_price)
    if metric.is_long_tailed:
        return LATENCY_SCALE
    if metric.source == KL:
        return KL_SCALE
    if metric.is_graded:
        return GridScale(low=metric.low, high=metric.high, bins=_GRID_BINS)
    return BINARY_SCALE


def log_scale_of(metric: Metric) -> LogScale:
    """The scale of a metric with a long tail."""
    scale = scale_of(metric)
    assert isinstance(scale, LogScale)
    return scale


def feedback_scales(experiment: Experiment) -> dict[str, BinaryScale | GridScale]:
    """By name after `feedback.`, the scale of every feedback the experiment uses."""
    scales: dict[str, BinaryScale | GridScale] = {}
    for metric in experiment.metrics:
        if metric.source.startswith(FEEDBACK_PREFIX):
            scale = scale_of(metric)
            assert not isinstance(scale, LogScale)
            scales[metric.source.removeprefix(FEEDBACK_PREFIX)] = scale
    return scales


def label_windows(experiment: Experiment) -> dict[str, float]:
    """By name after `feedback.`, how many seconds a label is waited for; without those that count when they come."""
    return {
        metric.source.removeprefix(FEEDBACK_PREFIX): metric.label_window_s
        for metric in experiment.metrics
        if metric.source.startswith(FEEDBACK_PREFIX) and metric.label_window_s is not None
    }


def worst_feedback(experiment: Experiment) -> dict[str, float]:
    """By name after `feedback.`, the worst value there is: the low end, the high end where lower is better."""
    return {
        metric.source.removeprefix(FEEDBACK_PREFIX): metric.high if metric.lower_is_better else metric.low
        for metric in experiment.metrics
        if metric.source.startswith(FEEDBACK_PREFIX)
    }


__all__ = [
    "BINARY_SCALE",
    "DIFFERENCE_SCALE",
    "KL_SCALE",
    "LATENCY_SCALE",
    "Scale",
    "feedback_scales",
    "label_windows",
    "log_scale_of",
    "scale_of",
    "worst_feedback",
]
