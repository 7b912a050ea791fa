"""What the count engine says of a metric that the split decides: a second opinion, for display.

It assumes that both arms stand still, which the deciding test does not. So there is one only while neither was found to
move; where it differs much from the deciding evidence then, somebody should look.
"""

from __future__ import annotations

from dataclasses import dataclass

from anabranch.bandit.counts import CountContrast, difference_interval
from anabranch.bandit.fold import FOR, contrast_test, higher_is_better, is_compared
from anabranch.bandit.futility import is_quiet
from anabranch.bandit.spec import Direction, Experiment, Metric
from anabranch.bandit.state import ExperimentState, Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOpinion:
    """What the counts of the split say of one metric of one candidate.

    Attributes:
        log_e: Log evidence that the metric holds.
        low: Lower end of the confidence sequence of candidate minus baseline, in the metric's unit.
        high: Its upper end.
    """

    log_e: float
    low: float
    high: float


def second_opinion(
    experiment: Experiment, state: ExperimentState, metric: Metric, candidate: str
) -> SecondOpinion | None:
    """The count engine's view of a metric that is compared in the split; None while an arm moves, and for latencies.

    A latency objective's count-based evidence is part of its verdict already.
    """
    if metric.is_latency or not is_compared(metric):
        return None
    if not is_quiet(state, metric.source, candidate, experiment.baseline):
        return None
    mine, base = (
        higher_is_better(metric, state.totals.get(arm, Totals()).split.get(metric.source, {}))
        for arm in (candidate, experiment.baseline)
    )
    deciding = contrast_test(metric, direction=FOR)
    test = CountContrast(claim=deciding.claim, scale=deciding.scale, margin=deciding.margin)
    alpha = experiment.delta / len(experiment.candidates)
    low, high = difference_interval(deciding.scale, mine, base, alpha=alpha)
    if metric.direction is Direction.MIN:
        low, high = -high, -low
    return SecondOpinion(log_e=test.log_e(mine, base), low=low, high=high)
