"""The plots of an experiment: which there are, and how each is drawn at a width."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from anabranch.bandit.allocation import who_is_best
from anabranch.bandit.fold import test_key
from anabranch.bandit.recent import recent_totals
from anabranch.bandit.scales import total_of
from anabranch.bandit.spec import Experiment
from anabranch.bandit.tracing import Moment
from anabranch.cli.numbers import in_unit
from anabranch.cli.palette import arm_colours
from anabranch.cli.plots.over_time import Reading, readings_plot, shares_plot, split_plot
from anabranch.cli.plots.quantiles import quantiles_plot
from anabranch.cli.splits import Split
from anabranch.cli.view_types import ArmState, ExperimentView, Limit, VerdictView


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One plot.

    Attributes:
        name: For a file: lower case, no blanks.
        group: Where a page shows it: traffic, latency, metric or posterior.
        draw: From the width, and whether it stands alone, to SVG.
    """

    name: str
    group: str
    title: str
    caption: str
    draw: Callable[[float, bool], str]


def figures_of(
    view: ExperimentView, experiment: Experiment, splits: Sequence[Split], moments: Sequence[Moment]
) -> list[Figure]:
    """Every plot that there are data for.

    Args:
        view: The experiment.
        experiment: Its spec.
        splits: Its traffic split since the start.
        moments: How it stood, from its start on.
    """
    colours = arm_colours([arm.name for arm in view.arms])
    elapsed_s = view.elapsed_s or 0.0
    found: list[Figure] = []
    if splits:
        found.append(_traffic(view, splits, colours, elapsed_s))
    if any(arm.quantiles for arm in view.arms):
        found.append(_latency(view, colours))
    candidates = [arm for arm in view.arms if arm.state is not ArmState.BASELINE]
    for verdict in candidates[0].verdicts if candidates else ():
        figure = _metric(view, verdict, moments, colours, elapsed_s)
        if figure is not None:
            found.append(figure)
    posterior = _posterior(view, experiment, moments, colours, elapsed_s)
    return [*found, *([posterior] if posterior is not None else [])]


def _traffic(
    view: ExperimentView, splits: Sequence[Split], colours: Mapping[str, str], elapsed_s: float
) -> Figure:
    title = "Traffic split over time."
    names = [arm.name for arm in view.arms]

    def draw(width: float, stands_alone: bool) -> str:
        return split_plot(
            splits, names, colours, elapsed_s, width=width, title=title, stands_alone=stands_alone
        )

    return Figure(
        name="traffic",
        group="traffic",
        title=title,
        caption="The share that each variant was meant to get, by the decision log.",
        draw=draw,
    )


def _latency(view: ExperimentView, colours: Mapping[str, str]) -> Figure:
    title = "Latency quantiles."

    def draw(width: float, stands_alone: bool) -> str:
        return quantiles_plot(view.arms, colours, width=width, title=title, stands_alone=stands_alone)

    return Figure(
        name="latency",
        group="latency",
        title=title,
        caption="Of the whole run, with bounds that hold at all times of looking.",
        draw=draw,
    )


def _metric(
    view: ExperimentView,
    metric: VerdictView,
    moments: Sequence[Moment],
    colours: Mapping[str, str],
    elapsed_s: float,
) -> Figure | None:
    readings = {
        arm.name: _readings(metric.metric, arm.name, moments)
        for arm in view.arms
        if arm.state is not ArmState.BASELINE
    }
    if not any(len(rows) > 1 for rows in readings.values()):
        return None
    limit, limit_name = _limit(metric)
    say = partial(in_unit, metric.unit, is_difference=metric.is_difference)
    what = metric.metric if metric.statistic == "mean" else f"{metric.metric} {metric.statistic}"
    title = f"{what}, candidate minus baseline." if metric.is_difference else f"{what}."

    def draw(width: float, stands_alone: bool) -> str:
        return readings_plot(
            readings,
            colours,
            elapsed_s,
            width=width,
            title=title,
            say=say,
            limit=limit,
            limit_name=limit_name,
            stands_alone=stands_alone,
        )

    return Figure(
        name=f"metric-{metric.metric}",
        group="metric",
        title=title,
        caption="Estimates inside intervals that cover the truth at all times at once.",
        draw=draw,
    )


def _limit(metric: VerdictView) -> tuple[float | None, str]:
    if metric.limit_value is None:
        return (metric.baseline, "baseline") if metric.baseline is not None else (None, "")
    if metric.limit_kind is Limit.MARGIN:
        # Where lower is better, worse is above.
        sign = 1.0 if metric.source == "error" else -1.0
        return sign * metric.limit_value, "margin"
    return metric.limit_value, "limit"


def _readings(metric: str, arm: str, moments: Sequence[Moment]) -> list[Reading]:
    """What was known of one metric of one arm, until it left."""
    found = []
    was_live = False
    for moment in moments:
        is_live = arm in moment.state.live
        if was_live and not is_live:
            break
        was_live = is_live
        verdict = moment.state.verdicts.get(test_key(metric, arm))
        if verdict is None or verdict.estimate is None or verdict.low is None or verdict.high is None:
            continue
        if not math.isfinite(verdict.estimate):
            continue
        found.append(Reading(moment.at_s - moments[0].at_s, verdict.estimate, verdict.low, verdict.high))
    return found


def _posterior(
    view: ExperimentView,
    experiment: Experiment,
    moments: Sequence[Moment],
    colours: Mapping[str, str],
    elapsed_s: float,
) -> Figure | None:
    metric = experiment.objective
    if metric is None:
        return None
    rows = [
        (moment.at_s - moments[0].at_s, who_is_best(experiment, moment.state))
        for moment in moments
        if moment.state.live
        and sum(
            bool(total_of(recent_totals(moment.state, arm).split.get(metric.source, {})))
            for arm in (experiment.baseline, *moment.state.live)
        )
        > 1
    ]
    if len(rows) < 2:
        return None
    title = f"Who is best by {metric.name}."
    names = [arm.name for arm in view.arms]

    def draw(width: float, stands_alone: bool) -> str:
        return shares_plot(
            rows, names, colours, elapsed_s, width=width, title=title, stands_alone=stands_alone
        )

    return Figure(
        name="posterior",
        group="posterior",
        title=title,
        caption="Posterior probability of being the best variant that keeps the guardrails: it moves traffic, it proves nothing.",
        draw=draw,
    )
