"""What a request costs: the time for which it had a variant's hardware, at that hardware's price.

Costs are measured request by request on a logarithmic scale, as durations are, so that the tests of durations are theirs.
The scale is the one of durations in milliseconds, at the price of the baseline's hardware: nothing is rounded twice.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from anabranch.bandit.scales import LATENCY_SCALE, FloatArray, Histogram, LogScale, total_of
from anabranch.bandit.spec import COST, Experiment
from anabranch.bandit.state import ExperimentState, Totals

_MS_PER_HOUR = 3.6e6
_REQUESTS = 1_000.0


def cost_per_1k(
    compute_ms: npt.ArrayLike, batch_rows: npt.ArrayLike, hourly_price: npt.ArrayLike
) -> FloatArray:
    """The price of 1,000 requests like each of these, in the currency of the price.

    Args:
        compute_ms: Time of the batch that a request ran in.
        batch_rows: Rows of that batch, which share its time; where nobody counts them, 0, the request had it alone.
        hourly_price: Of an hour of what ran it.
    """
    occupied_ms = np.asarray(compute_ms, np.float64) / np.maximum(np.asarray(batch_rows, np.float64), 1.0)
    return occupied_ms * (np.asarray(hourly_price, np.float64) * _REQUESTS / _MS_PER_HOUR)


@functools.cache
def cost_scale(hourly_price: float) -> LogScale:
    """The scale of costs in an experiment.

    Args:
        hourly_price: Of the baseline's hardware.
    """
    unit = hourly_price * _REQUESTS / _MS_PER_HOUR
    return LogScale(low=LATENCY_SCALE.low * unit, high=LATENCY_SCALE.borders[-1] * unit)


def unpriced_text(experiment: Experiment) -> str:
    """Why costs cannot be measured, and what to do; empty when they can, or are not asked for."""
    names = experiment.unpriced
    if not names:
        return ""
    return (
        f"spec.hourlyPrices: {COST} is asked for, and {', '.join(names)} {'has' if len(names) == 1 else 'have'} no price "
        f"of an hour: give it here, or to the variant with `anabranch variants price {experiment.model} {names[0]} NUMBER`, "
        "and apply the document again"
    )


def mean_cost(scale: LogScale, costs: Histogram) -> float | None:
    """What 1,000 requests cost on average; None without any. What is beyond the scale counts as its end."""
    total = total_of(costs)
    if not total:
        return None
    last = scale.borders[-1]
    return sum(min(scale.value_of(index), last) * count for index, count in costs.items()) / total


def saving_text(experiment: Experiment, state: ExperimentState, candidate: str) -> str:
    """What a candidate's requests cost against the baseline's, in a few words; empty where it was not measured."""
    metric = next((metric for metric in experiment.metrics if metric.source == COST), None)
    if metric is None or metric.hourly_price is None:
        return ""
    scale = cost_scale(metric.hourly_price)
    mine, base = (mean_cost(scale, _costs(state, arm)) for arm in (candidate, experiment.baseline))
    if mine is None or base is None or not base > 0.0:
        return ""
    share = 1.0 - mine / base
    change = f"{share:.1%} less" if share >= 0.0 else f"{-share:.1%} more"
    return f"1,000 requests cost {mine:.4g} on average, {change} than the baseline's {base:.4g}"


def _costs(state: ExperimentState, arm: str) -> Histogram:
    """An arm's costs: of the epochs in which both had traffic, where these are kept apart."""
    totals = state.totals.get(arm, Totals())
    return totals.split.get(COST) or totals.metrics.get(COST, {})
