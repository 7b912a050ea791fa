"""The exposure budget: how much harm may a candidate have done, at worst, before its guardrails hold?

A candidate's requests, times how much worse than allowed its guardrails may still be by their confidence sequences,
bounds the bad outcomes that it has caused. New exposure is allowed only while that is within the budget.

Source:
    Wu, Shariff, Lattimore, Szepesvári: Conservative bandits (ICML 2016): spend on exploration only what the lower
    confidence bound of what was earned allows.
"""

from __future__ import annotations

from anabranch.bandit.fold import test_key
from anabranch.bandit.spec import Direction, Experiment, Metric
from anabranch.bandit.state import ExperimentState, Totals
from anabranch.bandit.verdicts import Outcome, Verdict


def worst_harm(experiment: Experiment, state: ExperimentState, candidate: str) -> float:
    """Bad outcomes more than allowed that a candidate may have had, by its worst open guardrail.

    In units of a guardrail's range: one failed request where errors are guarded, one wrong answer where accuracy is.
    """
    requests = state.totals.get(candidate, Totals()).requests
    open_harms = [
        _harm(metric, verdict)
        for metric in experiment.guardrails
        if not metric.is_long_tailed
        and (verdict := state.verdicts.get(test_key(metric.name, candidate))) is not None
        and verdict.outcome is not Outcome.PASS
    ]
    return requests * max(open_harms, default=0.0)


def is_spent(experiment: Experiment, state: ExperimentState, candidate: str) -> bool:
    """Whether a candidate may get no more traffic for now."""
    budget = experiment.exposure_budget
    return budget is not None and worst_harm(experiment, state, candidate) > budget


def _harm(metric: Metric, verdict: Verdict) -> float:
    """How much worse than allowed an outcome may be on average, as a share of the range."""
    width = metric.high - metric.low
    if verdict.low is None or verdict.high is None:
        return 1.0
    if metric.minimum is not None:
        worse = metric.minimum - verdict.low
    elif metric.maximum is not None:
        worse = verdict.high - metric.maximum
    else:
        margin = metric.non_inferiority_margin or 0.0
        behind = verdict.high if metric.direction is Direction.MIN else -verdict.low
        worse = behind - margin
    return min(max(worse / width, 0.0), 1.0)
